-- What an append touches besides the events: keys, leases with their checkpoints, due times.

-- A key is known under its scope (workspace, caller, method and path). Written by the append that it names, in the same
-- transaction; rows go after the retention of keys, events never.
CREATE TABLE idempotency (
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    body_hash bytea NOT NULL,
    first_position bigint NOT NULL,
    position bigint NOT NULL,
    versions text NOT NULL,
    answer text,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT idempotency_pkey PRIMARY KEY (scope, key),
    CONSTRAINT idempotency_body_hash_is_sha256 CHECK (octet_length(body_hash) = 32)
);

CREATE INDEX idempotency_recorded_at_idx ON idempotency (recorded_at);

-- Lease and position of a reader in one row, moved by compare-and-set in the transaction that writes the reader's rows.
CREATE TABLE checkpoints (
    reader text COLLATE "C" NOT NULL,
    position bigint NOT NULL DEFAULT 0,
    owner text,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (reader),
    CONSTRAINT checkpoints_position_not_negative CHECK (position >= 0),
    CONSTRAINT checkpoints_held_until_a_time CHECK ((owner IS NULL) = (expires_at IS NULL))
) WITH (fillfactor = 50);

CREATE TABLE due_times (
    stream_id uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    due_at timestamptz NOT NULL,
    CONSTRAINT due_times_pkey PRIMARY KEY (stream_id, kind, key)
);

CREATE INDEX due_times_due_at_idx ON due_times (due_at);
