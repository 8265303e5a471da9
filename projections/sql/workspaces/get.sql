SELECT
    w.id, w.name, w.description, w.personal, m.role AS "role: MemberRole", w.member_count, w.created_by, w.created_at,
    w.updated_at, w.deletion_ends_at, w.position
FROM workspaces AS w
JOIN members AS m ON m.workspace_id = w.id AND m.user_id = $2
WHERE w.id = $1
