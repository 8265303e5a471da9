-- Executions as lists and their own pages show them. The nodes of one are in execution_nodes, a read model of its own.
CREATE TABLE executions (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    queued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    timeout_at timestamptz,
    created_by uuid,
    origin_execution_id uuid,
    parent_execution_id uuid,
    position bigint NOT NULL,
    workflow_version integer NOT NULL,
    claim integer NOT NULL,
    planned_nodes integer NOT NULL,
    finished_nodes integer NOT NULL,
    waiting boolean NOT NULL,
    cancelling boolean NOT NULL,
    status text COLLATE "C" NOT NULL,
    trigger_type text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    origin_kind text COLLATE "C",
    cancel_reason text COLLATE "C",
    worker text,
    limit_key text,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_microusd bigint NOT NULL,
    failed_node text,
    error json,
    input json,
    output json,
    output_blob json,
    CONSTRAINT executions_pkey PRIMARY KEY (id)
) WITH (fillfactor = 75);

-- What executions show and search of their workflow, whose name may change under them.
CREATE TABLE execution_workflows (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    search text NOT NULL,
    tags text[] NOT NULL,
    CONSTRAINT execution_workflows_pkey PRIMARY KEY (id)
);

-- How many executions by workspace and status, and by workflow and status; the nil workflow stands for the whole workspace.
CREATE TABLE execution_counts (
    workspace_id uuid NOT NULL,
    workflow_id uuid NOT NULL,
    status text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    CONSTRAINT execution_counts_pkey PRIMARY KEY (workspace_id, workflow_id, status)
) WITH (fillfactor = 50);

-- indexes
CREATE INDEX executions_created_idx ON executions (workspace_id, created_at DESC, id DESC);
CREATE INDEX executions_status_idx ON executions (workspace_id, status, created_at DESC, id DESC);
CREATE INDEX executions_workflow_idx ON executions (workflow_id, created_at DESC, id DESC);
CREATE INDEX executions_parent_idx ON executions (parent_execution_id, created_at) WHERE parent_execution_id IS NOT NULL;
CREATE INDEX execution_workflows_workspace_idx ON execution_workflows (workspace_id);
CREATE INDEX execution_workflows_tags_idx ON execution_workflows USING gin (tags);
