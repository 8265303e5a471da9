SELECT id, workspace_id, imported_by, imported_at, source, execution_id, workflow_name, status, events, size_bytes
FROM imported_executions
WHERE workspace_id = $1 AND ($2::timestamptz IS NULL OR (imported_at, id) < ($2, $3::uuid))
ORDER BY imported_at DESC, id DESC
OFFSET $4
LIMIT $5
