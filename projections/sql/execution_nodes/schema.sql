-- Every run of a node, by execution and path. Written once when it starts and once when it ends.
CREATE TABLE execution_nodes (
    execution_id uuid NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    retry_at timestamptz,
    wait_until timestamptz,
    duration_ms bigint,
    first_position bigint NOT NULL,
    position bigint NOT NULL,
    attempt integer NOT NULL,
    items integer,
    carried boolean NOT NULL,
    status text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    port text,
    error json,
    failed_attempts json NOT NULL,
    input json,
    output json,
    output_blob json,
    CONSTRAINT execution_nodes_pkey PRIMARY KEY (execution_id, path)
) WITH (fillfactor = 85);
