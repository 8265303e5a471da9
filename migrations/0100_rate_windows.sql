-- How much of an API rate limit is handed out. A process leases a slice of a window here and counts requests within it by itself, so
-- the limit holds over all processes without a statement for each request.
--
-- Unlogged: it is worth nothing after a minute, and a database that crashed begins every window anew.
CREATE UNLOGGED TABLE rate_windows (
    -- Whose requests are counted: a user.
    subject uuid NOT NULL,
    -- Which limit: `reads`, `writes` or `requests`.
    policy text NOT NULL,
    ends_at timestamptz NOT NULL,
    -- How many requests of the window the processes hold or have used.
    taken bigint NOT NULL,
    -- How many of them the last lease got.
    granted bigint NOT NULL,
    CONSTRAINT rate_windows_pkey PRIMARY KEY (subject, policy)
);
CREATE INDEX rate_windows_ends_at_idx ON rate_windows (ends_at);
