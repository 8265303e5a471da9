INSERT INTO execution_waits (
    execution_id, workspace_id, since, until, position, attempt, taken, kind, path, name, roles, users, detail
)
SELECT execution_id, workspace_id, since, until, position, attempt, false, kind, path, name,
       ARRAY(SELECT json_array_elements_text(roles::json)), ARRAY(SELECT json_array_elements_text(users::json)::uuid), detail::json
FROM unnest(
    $1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::integer[],
    $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[]
) AS row (execution_id, workspace_id, since, until, position, attempt, kind, path, name, roles, users, detail)
ON CONFLICT (execution_id, path) DO UPDATE SET
    since = excluded.since,
    until = excluded.until,
    position = excluded.position,
    attempt = excluded.attempt,
    taken = false,
    kind = excluded.kind,
    name = excluded.name,
    roles = excluded.roles,
    users = excluded.users,
    detail = excluded.detail
