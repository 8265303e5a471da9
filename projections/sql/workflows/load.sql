SELECT
    id, workspace_id, created_at, updated_at, parent_workflow_id, created_by, execution_count, completed_count, failed_count,
    last_position, position, progress, version, published_version, public, deleted, status AS "status: WorkflowStatus",
    intake AS "intake: Intake", name, description, tags, last_execution::text AS last_execution
FROM workflows
WHERE id = ANY ($1)
