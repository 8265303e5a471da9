-- Each of these is a look into an index, so a workspace of which nothing is left costs next to nothing.
SELECT d.id
FROM deleted_workspaces AS d
WHERE EXISTS (SELECT 1 FROM executions AS e WHERE e.workspace_id = d.id)
    OR EXISTS (SELECT 1 FROM workflow_counts AS c WHERE c.workspace_id = d.id)
    OR EXISTS (SELECT 1 FROM execution_counts AS c WHERE c.workspace_id = d.id)
    OR EXISTS (SELECT 1 FROM activity_counts AS c WHERE c.workspace_id = d.id)
    OR EXISTS (SELECT 1 FROM triggers AS t WHERE t.workspace_id = d.id)
    OR EXISTS (SELECT 1 FROM execution_workflows AS w WHERE w.workspace_id = d.id)
ORDER BY d.deleted_at
LIMIT $1
