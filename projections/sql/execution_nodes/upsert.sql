INSERT INTO execution_nodes (
    execution_id, path, started_at, finished_at, retry_at, wait_until, duration_ms, first_position, position, attempt, items,
    carried, status, port, error, failed_attempts, input, output, output_blob)
SELECT
    execution_id, path, started_at, finished_at, retry_at, wait_until, duration_ms, first_position, position, attempt, items,
    carried, status, port, error::json, failed_attempts::json, input::json, output::json, output_blob::json
FROM unnest(
    $1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::integer[], $11::integer[], $12::boolean[], $13::text[], $14::text[], $15::text[],
    $16::text[], $17::text[], $18::text[], $19::text[]
) AS row (
    execution_id, path, started_at, finished_at, retry_at, wait_until, duration_ms, first_position, position, attempt, items,
    carried, status, port, error, failed_attempts, input, output, output_blob)
-- Values are written once and then no longer held in memory: a row that comes without them keeps what it has.
ON CONFLICT (execution_id, path) DO UPDATE SET
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    retry_at = excluded.retry_at,
    wait_until = excluded.wait_until,
    duration_ms = excluded.duration_ms,
    position = excluded.position,
    attempt = excluded.attempt,
    items = excluded.items,
    status = excluded.status,
    port = excluded.port,
    error = excluded.error,
    failed_attempts = excluded.failed_attempts,
    input = coalesce(excluded.input, execution_nodes.input),
    output = coalesce(excluded.output, execution_nodes.output),
    output_blob = coalesce(excluded.output_blob, execution_nodes.output_blob)
