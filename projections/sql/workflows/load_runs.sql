SELECT
    execution_id, workflow_id, requested_position, requested_at, queued_at, started_at, planned, finished, waiting, cancelling,
    status AS "status: ExecutionStatus"
FROM workflow_runs
WHERE execution_id = ANY ($1)
