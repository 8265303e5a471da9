-- Workflows as lists show them. Rows change with every step of their executions, in columns no index holds: room is left on
-- each page so that those updates stay heap-only.
CREATE TABLE workflows (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    parent_workflow_id uuid,
    created_by uuid,
    execution_count bigint NOT NULL,
    completed_count bigint NOT NULL,
    failed_count bigint NOT NULL,
    last_position bigint NOT NULL,
    position bigint NOT NULL,
    progress double precision,
    version integer NOT NULL,
    published_version integer,
    public boolean NOT NULL,
    deleted boolean NOT NULL,
    status text COLLATE "C" NOT NULL,
    intake text COLLATE "C" NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    sort_name text COLLATE "C" NOT NULL,
    search text NOT NULL,
    tags text[] NOT NULL,
    last_execution json,
    CONSTRAINT workflows_pkey PRIMARY KEY (id)
) WITH (fillfactor = 75);

-- Executions that have not ended: which workflow their events belong to, and how far they are.
CREATE TABLE workflow_runs (
    execution_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    requested_position bigint NOT NULL,
    requested_at timestamptz NOT NULL,
    queued_at timestamptz,
    started_at timestamptz,
    planned integer NOT NULL,
    finished integer NOT NULL,
    waiting boolean NOT NULL,
    cancelling boolean NOT NULL,
    status text COLLATE "C" NOT NULL,
    CONSTRAINT workflow_runs_pkey PRIMARY KEY (execution_id)
) WITH (fillfactor = 75);

-- How many workflows a workspace has by status and intake: the totals of lists, kept instead of counted.
CREATE TABLE workflow_counts (
    workspace_id uuid NOT NULL,
    status text COLLATE "C" NOT NULL,
    intake text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT workflow_counts_pkey PRIMARY KEY (workspace_id, status, intake)
) WITH (fillfactor = 50);

-- indexes
CREATE INDEX workflows_created_idx ON workflows (workspace_id, created_at DESC, id DESC) WHERE NOT deleted;
CREATE INDEX workflows_status_idx ON workflows (workspace_id, status, created_at DESC, id DESC) WHERE NOT deleted;
CREATE INDEX workflows_updated_idx ON workflows (workspace_id, updated_at DESC, id DESC) WHERE NOT deleted;
CREATE INDEX workflows_name_idx ON workflows (workspace_id, sort_name, id) WHERE NOT deleted;
CREATE INDEX workflows_tags_idx ON workflows USING gin (tags);
-- trigram: workflows_search_idx ON workflows (search)
