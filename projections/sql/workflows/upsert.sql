INSERT INTO workflows (
    id, workspace_id, created_at, updated_at, parent_workflow_id, created_by, execution_count, completed_count, failed_count,
    last_position, position, progress, version, published_version, public, deleted, status, intake, name, description,
    sort_name, search, tags, last_execution)
SELECT
    id, workspace_id, created_at, updated_at, parent_workflow_id, created_by, execution_count, completed_count, failed_count,
    last_position, position, progress, version, published_version, public, deleted, status, intake, name, description,
    sort_name, search, ARRAY(SELECT json_array_elements_text(tags::json)), last_execution::json
FROM unnest(
    $1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[], $5::uuid[], $6::uuid[], $7::bigint[], $8::bigint[], $9::bigint[],
    $10::bigint[], $11::bigint[], $12::double precision[], $13::integer[], $14::integer[], $15::boolean[], $16::boolean[],
    $17::text[], $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[]
) AS row (
    id, workspace_id, created_at, updated_at, parent_workflow_id, created_by, execution_count, completed_count, failed_count,
    last_position, position, progress, version, published_version, public, deleted, status, intake, name, description, sort_name,
    search, tags, last_execution)
ON CONFLICT (id) DO UPDATE SET
    updated_at = excluded.updated_at,
    execution_count = excluded.execution_count,
    completed_count = excluded.completed_count,
    failed_count = excluded.failed_count,
    last_position = excluded.last_position,
    position = excluded.position,
    progress = excluded.progress,
    version = excluded.version,
    published_version = excluded.published_version,
    public = excluded.public,
    deleted = excluded.deleted,
    status = excluded.status,
    intake = excluded.intake,
    name = excluded.name,
    description = excluded.description,
    sort_name = excluded.sort_name,
    search = excluded.search,
    tags = excluded.tags,
    last_execution = excluded.last_execution
