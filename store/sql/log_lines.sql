SELECT workspace_id, execution_id, claim, n, at, level, node, attempt, message, fields AS "fields: JsonText", correlation_id
  FROM log_lines
 WHERE execution_id = $1
   AND (claim, n) > ($2, $3)
   AND level >= $4
   AND ($5::text IS NULL OR node = $5)
   AND ($6::text IS NULL OR strpos(lower(message), lower($6)) > 0)
 ORDER BY claim, n
 LIMIT $7
