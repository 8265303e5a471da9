-- Deliveries to webhooks that were refused, counted by the hour and reason: a stranger who knows an address makes rows for reasons
-- and hours only, never one a delivery. Rows go after a week.
CREATE TABLE webhook_refusals (
    trigger_id uuid NOT NULL,
    reason text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    count bigint NOT NULL,
    last_at timestamptz NOT NULL,
    CONSTRAINT webhook_refusals_pkey PRIMARY KEY (trigger_id, reason, hour),
    CONSTRAINT webhook_refusals_count_positive CHECK (count > 0)
);
