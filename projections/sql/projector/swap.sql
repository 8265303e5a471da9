-- The live checkpoint is where the fresh tables are; its leader is fenced off. What was set aside while they were filled
-- takes the place of what was set aside before, and what was skipped stays skipped.
WITH cleared AS (
    DELETE FROM quarantine WHERE model = $1 AND skipped_at IS NULL
), moved AS (
    UPDATE quarantine SET model = $1 WHERE model = $2
), spent AS (
    DELETE FROM checkpoints WHERE reader = $2
)
UPDATE checkpoints
   SET position = $3, epoch = epoch + 1, owner = NULL, expires_at = NULL
 WHERE reader = $1
