-- What matters for security, a row an event. Only ever inserted. From where it came is not here: that is beside the log and can be erased.
CREATE TABLE audit (
    position bigint NOT NULL,
    at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    -- Null: of the deployment, for operators only.
    workspace_id uuid,
    resource_id uuid NOT NULL,
    actor_user_id uuid,
    -- Whom it is about.
    user_id uuid,
    action text COLLATE "C" NOT NULL,
    resource_kind text COLLATE "C" NOT NULL,
    actor json NOT NULL,
    detail json NOT NULL,
    CONSTRAINT audit_pkey PRIMARY KEY (position)
);

-- indexes
CREATE INDEX audit_workspace_idx ON audit (workspace_id, position DESC);
CREATE INDEX audit_user_idx ON audit (user_id, position DESC) WHERE user_id IS NOT NULL;
CREATE INDEX audit_actor_idx ON audit (actor_user_id, position DESC) WHERE actor_user_id IS NOT NULL;
