-- Tasks that may be taken, the oldest first. That of a paused execution may not; the execution itself has the last word on it.
SELECT w.execution_id, w.path, w.attempt, w.position
FROM execution_waits AS w
LEFT JOIN executions AS e ON e.id = w.execution_id
WHERE w.workspace_id = $1 AND w.name = $2 AND w.kind = 'task' AND NOT w.taken
  AND (e.status IS NULL OR e.status <> 'paused')
ORDER BY w.position
LIMIT $3
