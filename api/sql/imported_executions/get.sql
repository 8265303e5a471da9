SELECT id, workspace_id, imported_by, imported_at, source, execution_id, workflow_name, status, events, size_bytes
FROM imported_executions
WHERE id = $1
