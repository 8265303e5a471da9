-- Workspaces by id; who belongs to them is in members, a read model of its own.
CREATE TABLE workspaces (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
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
