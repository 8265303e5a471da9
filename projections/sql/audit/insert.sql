INSERT INTO audit (
    position, at, event_id, workspace_id, resource_id, actor_user_id, user_id, action, resource_kind, actor, detail
)
SELECT position, at, event_id, workspace_id, resource_id, actor_user_id, user_id, action, resource_kind, actor::json, detail::json
FROM unnest(
    $1::bigint[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::text[],
    $10::text[], $11::text[]
) AS row (position, at, event_id, workspace_id, resource_id, actor_user_id, user_id, action, resource_kind, actor, detail)
