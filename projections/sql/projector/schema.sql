-- What the projectors keep beside their read models, in the schema `projections`.

-- Events that could not be applied. `key` is the stream whose later events wait behind the event at `position`;
-- a skipped one is kept, so that a rebuild skips it too.
CREATE TABLE IF NOT EXISTS quarantine (
    model text COLLATE "C" NOT NULL,
    key uuid NOT NULL,
    position bigint NOT NULL,
    error text NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    skipped_at timestamptz,
    skipped_by text,
    skip_reason text,
    CONSTRAINT quarantine_pkey PRIMARY KEY (model, key, position),
    CONSTRAINT quarantine_skipped_whole CHECK (
        (skipped_at IS NULL) = (skipped_by IS NULL) AND (skipped_at IS NULL) = (skip_reason IS NULL))
);
