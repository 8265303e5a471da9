SELECT
    e.id, e.workspace_id, e.workflow_id, e.workflow_version, w.name AS "workflow_name?", e.status AS "status: ExecutionStatus",
    e.waiting, e.cancelling, e.trigger_type AS "trigger_type: Trigger", e.queue, e.limit_key, e.input_tokens, e.output_tokens, e.cost_microusd, e.created_by, e.created_at,
    e.queued_at, e.started_at, e.finished_at, e.timeout_at,
    (extract(epoch FROM e.finished_at - e.started_at) * 1000)::bigint AS duration_ms,
    CASE WHEN e.status = 'completed' THEN 1.0::double precision
         ELSE least(coalesce(e.finished_nodes::double precision / nullif(e.planned_nodes, 0), 0.0), 1.0)
    END AS "progress!",
    e.finished_nodes, e.planned_nodes, e.claim, e.worker, e.origin_execution_id, e.origin_kind, e.parent_execution_id, e.cancel_reason, e.failed_node,
    e.error AS "error: RawJson", e.input AS "input: RawJson", e.output AS "output: RawJson",
    e.output_blob AS "output_blob: RawJson", e.position
FROM executions AS e
LEFT JOIN execution_workflows AS w ON w.id = e.workflow_id
WHERE e.id = $1
