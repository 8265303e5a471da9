SELECT
    id, workspace_id, workflow_id, created_at, queued_at, started_at, finished_at, timeout_at, created_by, origin_execution_id,
    position, workflow_version, claim, planned_nodes, finished_nodes, waiting, cancelling, status AS "status: ExecutionStatus",
    trigger_type AS "trigger_type: Trigger", queue, origin_kind, cancel_reason, worker, limit_key, input_tokens, output_tokens, cost_microusd, failed_node,
    error::text AS error, parent_execution_id
FROM executions
WHERE id = ANY ($1)
