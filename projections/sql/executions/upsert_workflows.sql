INSERT INTO execution_workflows (id, workspace_id, name, search, tags)
SELECT id, workspace_id, name, search, ARRAY(SELECT json_array_elements_text(tags::json))
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[]) AS row (id, workspace_id, name, search, tags)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, search = excluded.search, tags = excluded.tags
