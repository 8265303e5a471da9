SELECT
    execution_id, path, started_at, finished_at, retry_at, wait_until, duration_ms, first_position, position, attempt, items,
    carried, status AS "status: NodeStatus", port, error::text AS error, failed_attempts::text AS "failed_attempts!"
FROM execution_nodes
WHERE execution_id = ANY ($1) AND status IN ('running', 'waiting', 'retrying')
