DELETE FROM execution_counts AS kept
USING unnest($1::uuid[], $2::uuid[], $3::text[]) AS less (workspace_id, workflow_id, status)
WHERE kept.workspace_id = less.workspace_id
  AND kept.workflow_id = less.workflow_id
  AND kept.status = less.status
  AND kept.count = 0
