-- What nodes of open executions wait for from outside: approvals, signals, tasks for external workers. A row goes when its wait ends.
CREATE TABLE execution_waits (
    execution_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz,
    position bigint NOT NULL,
    attempt integer NOT NULL,
    taken boolean NOT NULL,
    kind text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    roles text[] NOT NULL,
    users uuid[] NOT NULL,
    detail json,
    CONSTRAINT execution_waits_pkey PRIMARY KEY (execution_id, path)
) WITH (fillfactor = 85);

-- indexes
CREATE INDEX execution_waits_workspace_idx ON execution_waits (workspace_id, kind, position);
CREATE INDEX execution_waits_offered_idx ON execution_waits (workspace_id, name, position) WHERE kind = 'task' AND NOT taken;
