-- Where a reader of one workspace goes on, and the position it has looked up to after `$3` of its events (none: all of them).
SELECT base.seq AS "low!",
       (SELECT e.position FROM events e
         WHERE e.workspace_id = $1 AND e.workspace_seq = base.seq + $3) AS upto
  FROM (SELECT workspace_seq_at($1, $2) AS seq) base
