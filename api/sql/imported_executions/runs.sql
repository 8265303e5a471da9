SELECT execution_id, started_by, started_at
FROM imported_execution_runs
WHERE imported_id = $1
ORDER BY started_at DESC, execution_id DESC
LIMIT $2
