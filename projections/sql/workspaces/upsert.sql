INSERT INTO workspaces (id, created_at, updated_at, deletion_ends_at, created_by, position, member_count, personal, name, description,
    sort_name, search)
SELECT *
FROM unnest(
    $1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::uuid[], $6::bigint[], $7::integer[], $8::boolean[],
    $9::text[], $10::text[], $11::text[], $12::text[])
ON CONFLICT (id) DO UPDATE SET
    updated_at = excluded.updated_at,
    deletion_ends_at = excluded.deletion_ends_at,
    position = excluded.position,
    member_count = excluded.member_count,
    name = excluded.name,
    description = excluded.description,
    sort_name = excluded.sort_name,
    search = excluded.search
