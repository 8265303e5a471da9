-- The keys under which personal data in the log is sealed: one for each person that a workspace names. Erasing a row erases the person:
-- what the key sealed stays in the log and says nothing any more.
CREATE TABLE subject_keys (
    workspace_id uuid NOT NULL,
    -- As the workspace knows them: personal, and gone with the key.
    name text NOT NULL,
    -- As the log knows them.
    subject uuid NOT NULL,
    key_id uuid NOT NULL,
    wrapped bytea NOT NULL,
    made_at timestamptz NOT NULL,
    CONSTRAINT subject_keys_pkey PRIMARY KEY (workspace_id, name),
    CONSTRAINT subject_keys_subject_key UNIQUE (subject),
    CONSTRAINT subject_keys_name_check CHECK (char_length(name) BETWEEN 1 AND 200)
);
-- Finds what is about a person with an account, in all workspaces.
CREATE INDEX subject_keys_name_idx ON subject_keys (name);
