-- Who belongs to which workspace, with which role. A removed member's row goes.
CREATE TABLE members (
    workspace_id uuid NOT NULL,
    user_id uuid NOT NULL,
    added_at timestamptz NOT NULL,
    added_by uuid,
    updated_at timestamptz NOT NULL,
    position bigint NOT NULL,
    role text COLLATE "C" NOT NULL,
    CONSTRAINT members_pkey PRIMARY KEY (workspace_id, user_id)
) WITH (fillfactor = 85);

-- indexes
CREATE INDEX members_user_idx ON members (user_id, workspace_id);
