SELECT n, execution_id, made_execution_id, outcome, detail
FROM bulk_items
WHERE job_id = $1 AND n > $2 AND ($3::text IS NULL OR outcome = $3)
ORDER BY n
LIMIT $4
