COPY executions (
    id, workspace_id, workflow_id, created_at, queued_at, started_at, finished_at, timeout_at, created_by, origin_execution_id,
    position, workflow_version, claim, planned_nodes, finished_nodes, waiting, cancelling, status, trigger_type, queue,
    origin_kind, cancel_reason, worker, limit_key, failed_node, error, input, output, output_blob,
    input_tokens, output_tokens, cost_microusd, parent_execution_id)
FROM STDIN (FORMAT binary)
