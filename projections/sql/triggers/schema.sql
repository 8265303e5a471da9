-- Triggers by id: what a list is made of. How each stands is folded from its stream.
CREATE TABLE triggers (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    position bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    CONSTRAINT triggers_pkey PRIMARY KEY (id)
);

-- indexes
CREATE INDEX triggers_workspace_idx ON triggers (workspace_id, kind, position DESC);
