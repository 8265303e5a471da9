INSERT INTO workflow_counts AS kept (workspace_id, status, intake, count)
SELECT *
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[])
ON CONFLICT (workspace_id, status, intake) DO UPDATE SET count = kept.count + excluded.count
