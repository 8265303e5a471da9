SELECT
    path, status AS "status: NodeStatus", attempt, items, carried, port, started_at, finished_at, duration_ms, retry_at,
    wait_until, failed_attempts AS "failed_attempts: RawJson", input AS "input: RawJson", output AS "output: RawJson",
    output_blob AS "output_blob: RawJson", error AS "error: RawJson", first_position, position
FROM execution_nodes
WHERE execution_id = $1 AND (first_position, path) > ($2, $3)
ORDER BY first_position, path
LIMIT $4
