SELECT
    n.execution_id, n.path, n.started_at, n.finished_at, n.retry_at, n.wait_until, n.duration_ms, n.first_position, n.position,
    n.attempt, n.items, n.carried, n.status AS "status: NodeStatus", n.port, n.error::text AS error,
    n.failed_attempts::text AS "failed_attempts!"
FROM unnest($1::uuid[], $2::text[]) AS wanted (execution_id, path)
JOIN execution_nodes AS n ON n.execution_id = wanted.execution_id AND n.path = wanted.path
