SELECT
    j.id, j.workspace_id, j.action, j.total, j.requested_by, j.created_at, j.finished_at, j.body_hash,
    (SELECT count(*) FROM bulk_items AS i WHERE i.job_id = j.id AND i.outcome = 'succeeded') AS "succeeded!",
    (SELECT count(*) FROM bulk_items AS i WHERE i.job_id = j.id AND i.outcome = 'failed') AS "failed!"
FROM bulk_jobs AS j
WHERE j.id = $1
