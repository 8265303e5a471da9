SELECT position, version, workspace_seq, recorded_at, stream_id, workspace_id, event_id, schema_version, category, type,
       payload AS "payload: JsonText", metadata AS "metadata: JsonText"
  FROM events
 WHERE position > $1 AND position <= $2
   AND (cardinality($3::text[]) = 0 OR category = ANY ($3))
   AND (cardinality($4::text[]) = 0 OR type = ANY ($4))
 ORDER BY position
 LIMIT $5
