-- Where a reader of one stream goes on, and the position it has looked up to after `$3` of its events (none: all of them).
SELECT base.version AS "low!",
       (SELECT e.position FROM events e
         WHERE e.stream_id = $1 AND e.version = base.version + $3) AS upto
  FROM (SELECT stream_version_at($1, $2) AS version) base
