-- Values that workflows may use and nobody may read: secrets, and the settings of connections with their passwords.
--
-- Beside the log, because the log never forgets: it holds names and versions, this holds what they stand for, sealed. Which version of a
-- holder counts is what the log says; a row that it does not name (its writer died in between) is of no use to anybody and goes with
-- the next write of the same holder.

-- The data key of each workspace, wrapped by the deployment's master key. One row a workspace: all of its values are sealed under the
-- key that stands here, since a rotation seals them again in one transaction.
CREATE TABLE workspace_keys (
    workspace_id uuid CONSTRAINT workspace_keys_pkey PRIMARY KEY,
    version integer NOT NULL,
    wrapped bytea NOT NULL,
    made_at timestamptz NOT NULL,
    CONSTRAINT workspace_keys_version_check CHECK (version > 0)
);

CREATE TABLE sealed_values (
    workspace_id uuid NOT NULL CONSTRAINT sealed_values_workspace_id_fkey REFERENCES workspace_keys ON DELETE CASCADE,
    -- `secret:<name>` or `connection:<id>`.
    holder text NOT NULL,
    version integer NOT NULL,
    -- Nonce, ciphertext and tag; bound to workspace, holder and version, so that no row opens in the place of another.
    sealed bytea NOT NULL,
    made_at timestamptz NOT NULL,
    CONSTRAINT sealed_values_pkey PRIMARY KEY (workspace_id, holder, version),
    CONSTRAINT sealed_values_version_check CHECK (version > 0),
    CONSTRAINT sealed_values_holder_check CHECK (char_length(holder) BETWEEN 1 AND 200)
);
-- Finds the workspace of a connection by its id.
CREATE INDEX sealed_values_holder_idx ON sealed_values (holder);
