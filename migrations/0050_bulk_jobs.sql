-- Jobs over many executions: what was asked for, and what came of each. Operational: every change that a job makes is in the log, under
-- the job's id as correlation; these rows say how far the job is, and go thirty days after it ended.

CREATE TABLE bulk_jobs (
    id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    requested_by uuid NOT NULL,
    action text COLLATE "C" NOT NULL,
    body_hash bytea NOT NULL,
    total integer NOT NULL,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    CONSTRAINT bulk_jobs_pkey PRIMARY KEY (id),
    CONSTRAINT bulk_jobs_action_check CHECK (action IN ('cancel', 'pause', 'resume', 'retry', 'rerun')),
    CONSTRAINT bulk_jobs_total_check CHECK (total >= 0)
);

CREATE INDEX bulk_jobs_open_idx ON bulk_jobs (created_at) WHERE finished_at IS NULL;
CREATE INDEX bulk_jobs_finished_idx ON bulk_jobs (finished_at) WHERE finished_at IS NOT NULL;

-- An item without an outcome is still to be done. It is done under a key and with ids that follow from the job and the execution, so
-- that doing it again after a crash changes nothing.
CREATE TABLE bulk_items (
    job_id uuid NOT NULL,
    execution_id uuid NOT NULL,
    made_execution_id uuid,
    n integer NOT NULL,
    outcome text COLLATE "C",
    detail text,
    CONSTRAINT bulk_items_pkey PRIMARY KEY (job_id, n),
    CONSTRAINT bulk_items_job_id_fkey FOREIGN KEY (job_id) REFERENCES bulk_jobs ON DELETE CASCADE,
    CONSTRAINT bulk_items_outcome_check CHECK (outcome IN ('succeeded', 'failed'))
);

CREATE INDEX bulk_items_open_idx ON bulk_items (job_id, n) WHERE outcome IS NULL;
