INSERT INTO log_lines (workspace_id, execution_id, claim, n, at, level, node, attempt, message, fields, correlation_id)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::timestamptz[], $6::smallint[], $7::text[],
                     $8::integer[], $9::text[], $10::json[], $11::uuid[])
ON CONFLICT ON CONSTRAINT log_lines_pkey DO NOTHING
