INSERT INTO imported_executions
    (id, workspace_id, imported_by, imported_at, source, execution_id, workflow_name, status, events, size_bytes, content_hash, content)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT ON CONSTRAINT imported_executions_pkey DO NOTHING
