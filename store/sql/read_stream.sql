SELECT position, version, workspace_seq, recorded_at, stream_id, workspace_id, event_id, schema_version, category, type,
       payload AS "payload: JsonText", metadata AS "metadata: JsonText"
  FROM events
 WHERE stream_id = $1 AND version > $2 AND version <= $3
   AND (cardinality($4::text[]) = 0 OR category = ANY ($4))
   AND (cardinality($5::text[]) = 0 OR type = ANY ($5))
   AND ($6::uuid IS NULL OR workspace_id = $6)
   AND position <= $7
 ORDER BY version
 LIMIT $8
