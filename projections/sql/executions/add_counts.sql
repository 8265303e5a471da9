INSERT INTO execution_counts AS kept (workspace_id, workflow_id, status, count)
SELECT *
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
ON CONFLICT (workspace_id, workflow_id, status) DO UPDATE SET count = kept.count + excluded.count
