SELECT
    id, workspace_id, name, description, status AS "status: WorkflowStatus", intake AS "intake: Intake", version,
    published_version, tags, public AS is_public, progress, execution_count,
    completed_count::double precision / nullif(completed_count + failed_count, 0) AS success_rate,
    last_execution AS "last_execution: RawJson", created_by, created_at, updated_at, parent_workflow_id, position
FROM workflows
WHERE id = $1 AND NOT deleted
