INSERT INTO executions (
    id, workspace_id, workflow_id, created_at, queued_at, started_at, finished_at, timeout_at, created_by, origin_execution_id,
    position, workflow_version, claim, planned_nodes, finished_nodes, waiting, cancelling, status, trigger_type, queue,
    origin_kind, cancel_reason, worker, limit_key, failed_node, error, input, output, output_blob,
    input_tokens, output_tokens, cost_microusd, parent_execution_id)
SELECT
    id, workspace_id, workflow_id, created_at, queued_at, started_at, finished_at, timeout_at, created_by, origin_execution_id,
    position, workflow_version, claim, planned_nodes, finished_nodes, waiting, cancelling, status, trigger_type, queue,
    origin_kind, cancel_reason, worker, limit_key, failed_node, error::json, input::json, output::json, output_blob::json,
    input_tokens, output_tokens, cost_microusd, parent_execution_id
FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
    $8::timestamptz[], $9::uuid[], $10::uuid[], $11::bigint[], $12::integer[], $13::integer[], $14::integer[], $15::integer[],
    $16::boolean[], $17::boolean[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[],
    $25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::bigint[], $31::bigint[], $32::bigint[], $33::uuid[]
) AS row (
    id, workspace_id, workflow_id, created_at, queued_at, started_at, finished_at, timeout_at, created_by, origin_execution_id,
    position, workflow_version, claim, planned_nodes, finished_nodes, waiting, cancelling, status, trigger_type, queue,
    origin_kind, cancel_reason, worker, limit_key, failed_node, error, input, output, output_blob,
    input_tokens, output_tokens, cost_microusd, parent_execution_id)
-- Input and output are written once and then no longer held in memory: a row that comes without them keeps what it has.
ON CONFLICT (id) DO UPDATE SET
    queued_at = excluded.queued_at,
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    position = excluded.position,
    claim = excluded.claim,
    finished_nodes = excluded.finished_nodes,
    waiting = excluded.waiting,
    cancelling = excluded.cancelling,
    status = excluded.status,
    cancel_reason = excluded.cancel_reason,
    worker = excluded.worker,
    failed_node = excluded.failed_node,
    input_tokens = excluded.input_tokens,
    output_tokens = excluded.output_tokens,
    cost_microusd = excluded.cost_microusd,
    error = excluded.error,
    output = coalesce(excluded.output, executions.output),
    output_blob = coalesce(excluded.output_blob, executions.output_blob)
