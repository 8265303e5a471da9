-- What commands and workers keep beside the log: none of it is the truth, all of it can be made again or was never history.

-- A fold of a stream, for a faster start of the next fold. A row with a stale fingerprint is ignored and replaced.
CREATE TABLE snapshots (
    stream_id uuid NOT NULL,
    version bigint NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL,
    CONSTRAINT snapshots_pkey PRIMARY KEY (stream_id)
);

-- Values too large for an event, by their SHA-256. Stored before the event that names them.
CREATE TABLE blobs (
    hash bytea NOT NULL,
    size_bytes bigint NOT NULL,
    content bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT blobs_pkey PRIMARY KEY (hash),
    CONSTRAINT blobs_hash_is_sha256 CHECK (octet_length(hash) = 32),
    CONSTRAINT blobs_size_of_content CHECK (size_bytes = octet_length(content))
);

-- Lines that executions print. The number within the claim is given by the worker, so a batch written twice changes nothing.
-- One plain table: a line's identity has no time in it, which a partition by time would need in its key, and retention is
-- per workflow, so old lines go by execution along the primary key; the BRIN index finds what is old at 24 bytes a megabyte.
CREATE TABLE log_lines (
    at timestamptz NOT NULL,
    n bigint NOT NULL,
    execution_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    correlation_id uuid,
    claim integer NOT NULL,
    attempt integer NOT NULL,
    level smallint NOT NULL,
    node text NOT NULL,
    message text NOT NULL,
    fields json,
    CONSTRAINT log_lines_pkey PRIMARY KEY (execution_id, claim, n),
    CONSTRAINT log_lines_level_known CHECK (level BETWEEN 0 AND 3)
);

CREATE INDEX log_lines_at_idx ON log_lines USING brin (at);

-- A worker process's sign of life: one row a process.
CREATE TABLE worker_leases (
    worker text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    slots integer NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT worker_leases_pkey PRIMARY KEY (worker),
    CONSTRAINT worker_leases_slots_not_negative CHECK (slots >= 0)
) WITH (fillfactor = 50);
