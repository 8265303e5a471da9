INSERT INTO workflow_runs (
    execution_id, workflow_id, requested_position, requested_at, queued_at, started_at, planned, finished, waiting, cancelling,
    status)
SELECT *
FROM unnest(
    $1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::integer[], $8::integer[],
    $9::boolean[], $10::boolean[], $11::text[])
ON CONFLICT (execution_id) DO UPDATE SET
    queued_at = excluded.queued_at,
    started_at = excluded.started_at,
    finished = excluded.finished,
    waiting = excluded.waiting,
    cancelling = excluded.cancelling,
    status = excluded.status
