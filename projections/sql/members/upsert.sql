INSERT INTO members (workspace_id, user_id, added_at, added_by, updated_at, position, role)
SELECT *
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::uuid[], $5::timestamptz[], $6::bigint[], $7::text[])
ON CONFLICT (workspace_id, user_id) DO UPDATE SET
    added_at = excluded.added_at,
    added_by = excluded.added_by,
    updated_at = excluded.updated_at,
    position = excluded.position,
    role = excluded.role
