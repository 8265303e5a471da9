-- The largest event that the log takes, at a position that no event has: rolled back, so that it never was. It is noise, because
-- what compresses well fits into a page that is there already and needs no room.
INSERT INTO events (
    position, version, workspace_seq, recorded_at, stream_id, workspace_id, event_id, schema_version,
    category, type, payload, metadata
)
SELECT -1, -1, -1, clock_timestamp(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1,
       'doctor', 'room_probed', to_json(left(string_agg(gen_random_uuid()::text, ''), $1)), '{}'
  FROM generate_series(1, $1 / 36 + 1)
