COPY execution_nodes (
    execution_id, path, started_at, finished_at, retry_at, wait_until, duration_ms, first_position, position, attempt, items,
    carried, status, port, error, failed_attempts, input, output, output_blob)
FROM STDIN (FORMAT binary)
