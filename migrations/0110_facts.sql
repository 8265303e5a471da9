-- Facts for the audit on their way into the log, and what must not be in it.

-- A fact is written here in the transaction of what it tells of, so none is lost and none is told of what did not happen; it goes into
-- the log with the same id a moment later, and its row goes away.
CREATE TABLE facts (
    event_id uuid NOT NULL,
    at timestamptz NOT NULL,
    schema_version smallint NOT NULL,
    type text COLLATE "C" NOT NULL,
    -- As the event will hold it: ids and counts, nothing personal.
    payload text NOT NULL,
    -- Who did it, as the event's metadata will hold it.
    actor text NOT NULL,
    CONSTRAINT facts_pkey PRIMARY KEY (event_id)
);
CREATE INDEX facts_at_idx ON facts (at);

-- From where: personal, so beside the log, by the id of the event; erased with the person, and after ninety days.
CREATE TABLE fact_origins (
    event_id uuid NOT NULL,
    user_id uuid,
    at timestamptz NOT NULL,
    ips text[] NOT NULL,
    user_agent text,
    CONSTRAINT fact_origins_pkey PRIMARY KEY (event_id),
    CONSTRAINT fact_origins_ips_check CHECK (cardinality(ips) <= 20)
);
CREATE INDEX fact_origins_user_id_idx ON fact_origins (user_id);
CREATE INDEX fact_origins_at_idx ON fact_origins USING brin (at);

-- What happens too often to be told each time, counted by window over all processes. A row becomes one fact when its window is over.
CREATE TABLE fact_sums (
    -- What is counted, as JSON: see `Tally` in domain/src/audit.rs.
    tally text COLLATE "C" NOT NULL,
    window_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    user_id uuid,
    count bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    -- Some of what it was about, and some of where it came from: twenty at most of each.
    ids uuid[] NOT NULL,
    ips text[] NOT NULL,
    CONSTRAINT fact_sums_pkey PRIMARY KEY (tally, window_at),
    CONSTRAINT fact_sums_count_check CHECK (count > 0)
);
CREATE INDEX fact_sums_ends_at_idx ON fact_sums (ends_at);
CREATE INDEX fact_sums_user_id_idx ON fact_sums (user_id);
