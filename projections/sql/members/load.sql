SELECT m.workspace_id, m.user_id, m.added_at, m.added_by, m.updated_at, m.position, m.role AS "role: MemberRole"
FROM unnest($1::uuid[], $2::uuid[]) AS wanted (workspace_id, user_id)
JOIN members AS m ON m.workspace_id = wanted.workspace_id AND m.user_id = wanted.user_id
