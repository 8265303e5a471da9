-- The log: one head row, one table of events, and triggers that refuse to change what was written.

-- Where the log ends. One row in its own table: every append updates it, so it must stay a heap-only update on a page of
-- its own, without any index besides the primary key.
CREATE TABLE log_head (
    one boolean NOT NULL DEFAULT true,
    log_id uuid NOT NULL DEFAULT gen_random_uuid(),
    epoch integer NOT NULL DEFAULT 1,
    position bigint NOT NULL DEFAULT 0,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT log_head_pkey PRIMARY KEY (one),
    CONSTRAINT log_head_one_row CHECK (one),
    CONSTRAINT log_head_epoch_positive CHECK (epoch > 0),
    CONSTRAINT log_head_position_not_negative CHECK (position >= 0)
) WITH (fillfactor = 10);

INSERT INTO log_head DEFAULT VALUES;

-- Fixed-width columns first, so that no row pays for alignment. Payload and metadata are json, not jsonb: the text is kept
-- byte for byte (proofs commit to it) and reads are faster. Each index costs 100-135 bytes of WAL an event: no other index.
CREATE TABLE events (
    position bigint NOT NULL,
    version bigint NOT NULL,
    workspace_seq bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    stream_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    event_id uuid NOT NULL,
    schema_version smallint NOT NULL,
    category text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    payload json NOT NULL,
    metadata json NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (position),
    CONSTRAINT events_stream_version_key UNIQUE (stream_id, version),
    CONSTRAINT events_event_id_key UNIQUE (event_id),
    CONSTRAINT events_workspace_seq_key UNIQUE (workspace_id, workspace_seq)
);

CREATE FUNCTION refuse_change_of_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are never changed: % refused', tg_op USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER events_never_change BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_events();

-- Also where triggers are off for replication (session_replication_role = replica).
ALTER TABLE events ENABLE ALWAYS TRIGGER events_never_change;

-- The last position recorded at or before a time; 0 when there is none. recorded_at rises with position, so a binary search
-- over the primary key finds it without an index on the time.
CREATE FUNCTION position_at(p_at timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
BEGIN
    SELECT position INTO high FROM log_head WHERE one;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT e.recorded_at FROM events e WHERE e.position = middle) <= p_at THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

-- How many events of a workspace lie at or before a position: workspace_seq rises with position, so again a binary search,
-- and a reader of one workspace starts in the middle of the log without reading what is before.
CREATE FUNCTION workspace_seq_at(p_workspace_id uuid, p_position bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
BEGIN
    SELECT coalesce(max(e.workspace_seq), 0) INTO high FROM events e WHERE e.workspace_id = p_workspace_id;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT e.position FROM events e
             WHERE e.workspace_id = p_workspace_id AND e.workspace_seq = middle) <= p_position THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;

-- The version a stream had at a position, found the same way.
CREATE FUNCTION stream_version_at(p_stream_id uuid, p_position bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
BEGIN
    SELECT coalesce(max(e.version), 0) INTO high FROM events e WHERE e.stream_id = p_stream_id;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT e.position FROM events e
             WHERE e.stream_id = p_stream_id AND e.version = middle) <= p_position THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
