SELECT position, version, workspace_seq, recorded_at, stream_id, workspace_id, event_id, schema_version, category, type,
       payload AS "payload: JsonText", metadata AS "metadata: JsonText"
  FROM events
 WHERE workspace_id = $1 AND workspace_seq > $2 AND workspace_seq <= $3
   AND (cardinality($4::text[]) = 0 OR category = ANY ($4))
   AND (cardinality($5::text[]) = 0 OR type = ANY ($5))
   AND position <= $6
 ORDER BY workspace_seq
 LIMIT $7
