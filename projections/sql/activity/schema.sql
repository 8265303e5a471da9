-- Who did what, a row an event that a person would want to read about. Only ever inserted.
CREATE TABLE activity (
    position bigint NOT NULL,
    at timestamptz NOT NULL,
    workspace_id uuid NOT NULL,
    resource_id uuid NOT NULL,
    actor_user_id uuid,
    action text COLLATE "C" NOT NULL,
    resource_kind text COLLATE "C" NOT NULL,
    actor json NOT NULL,
    detail json NOT NULL,
    CONSTRAINT activity_pkey PRIMARY KEY (position)
);

-- How many entries each workspace has.
CREATE TABLE activity_counts (
    workspace_id uuid NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT activity_counts_pkey PRIMARY KEY (workspace_id)
) WITH (fillfactor = 50);

-- indexes
CREATE INDEX activity_workspace_idx ON activity (workspace_id, position DESC);
CREATE INDEX activity_resource_idx ON activity (resource_id, position DESC);
