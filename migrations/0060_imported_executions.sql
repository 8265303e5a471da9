-- Executions that were exported elsewhere, each as its file: evidence that is looked at and run again, and never part of this log.

CREATE TABLE imported_executions (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    imported_by uuid NOT NULL,
    imported_at timestamptz NOT NULL,
    -- What the file says of itself, for lists.
    source text COLLATE "C" NOT NULL,
    execution_id uuid NOT NULL,
    workflow_name text,
    status text COLLATE "C" NOT NULL,
    events integer NOT NULL,
    size_bytes integer NOT NULL,
    content_hash bytea NOT NULL,
    content bytea NOT NULL,
    CONSTRAINT imported_executions_pkey PRIMARY KEY (id),
    CONSTRAINT imported_executions_events_check CHECK (events > 0)
);

CREATE INDEX imported_executions_workspace_idx ON imported_executions (workspace_id, imported_at DESC, id DESC);

-- Runs of this deployment that are held against one of them. That a run was started is in the log; this says what for.
CREATE TABLE imported_execution_runs (
    imported_id uuid NOT NULL,
    execution_id uuid NOT NULL,
    started_by uuid NOT NULL,
    started_at timestamptz NOT NULL,
    CONSTRAINT imported_execution_runs_pkey PRIMARY KEY (imported_id, execution_id),
    CONSTRAINT imported_execution_runs_imported_id_fkey FOREIGN KEY (imported_id) REFERENCES imported_executions ON DELETE CASCADE
);
