-- Workspaces by id; who belongs to them is in members, a read model of its own.
CREATE TABLE workspaces (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deletion_ends_at timestamptz,
    created_by uuid NOT NULL,
    position bigint NOT NULL,
    member_count integer NOT NULL,
    personal boolean NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    sort_name text COLLATE "C" NOT NULL,
    search text NOT NULL,
    CONSTRAINT workspaces_pkey PRIMARY KEY (id)
) WITH (fillfactor = 85);

-- Those whose grace is over. What belonged to them is cleared away by and by, and again after a rebuild.
CREATE TABLE deleted_workspaces (
    id uuid NOT NULL,
    deleted_at timestamptz NOT NULL,
    CONSTRAINT deleted_workspaces_pkey PRIMARY KEY (id)
);
