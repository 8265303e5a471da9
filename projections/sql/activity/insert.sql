INSERT INTO activity (position, at, workspace_id, resource_id, actor_user_id, action, resource_kind, actor, detail)
SELECT position, at, workspace_id, resource_id, actor_user_id, action, resource_kind, actor::json, detail::json
FROM unnest(
    $1::bigint[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[]
) AS row (position, at, workspace_id, resource_id, actor_user_id, action, resource_kind, actor, detail)
