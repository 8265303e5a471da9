-- What proves that somebody reads an address: one-time codes and links, the mails that carry them, and how often they may be
-- asked for. Personal and short-lived, so none of it is event-sourced.

CREATE TABLE one_time_codes (
    code_id uuid CONSTRAINT one_time_codes_pkey PRIMARY KEY,
    -- SHA-256 of the folded address: whether it has an account does not show here.
    subject bytea NOT NULL,
    purpose text NOT NULL,
    -- Keyed hash of address, purpose and code. Six digits under a plain hash could be found by trying them all.
    code_mac bytea NOT NULL,
    -- False for an address that the purpose does not fit (login without an account): the same rows, and no code is ever right.
    usable boolean NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    ip text,
    user_agent text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Used, superseded by a newer one, or dead after too many wrong tries.
    spent_at timestamptz,
    CONSTRAINT one_time_codes_subject_check CHECK (octet_length(subject) = 32),
    CONSTRAINT one_time_codes_purpose_check CHECK (purpose IN ('login', 'signup', 'reset')),
    CONSTRAINT one_time_codes_code_mac_check CHECK (octet_length(code_mac) = 32)
);
-- At most one code of a purpose is good for an address.
CREATE UNIQUE INDEX one_time_codes_live_key ON one_time_codes (subject, purpose) WHERE spent_at IS NULL;
CREATE INDEX one_time_codes_expires_at_idx ON one_time_codes (expires_at);

-- Links that are good once: a new password after a code, an address to verify. Using one deletes it.
CREATE TABLE one_time_links (
    token_hash bytea CONSTRAINT one_time_links_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT one_time_links_user_id_fkey REFERENCES users ON DELETE CASCADE,
    purpose text NOT NULL,
    -- The folded address that it was sent to: a link to an address that the account no longer has proves nothing.
    email_key text NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT one_time_links_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT one_time_links_purpose_check CHECK (purpose IN ('reset', 'verify'))
);
CREATE INDEX one_time_links_user_id_idx ON one_time_links (user_id, purpose);

-- Mails on their way. Written in the transaction of what they tell of, so none is lost and none is sent for nothing; delivered at
-- least once. What a delivered mail said is removed with its delivery.
CREATE TABLE outbox (
    mail_id uuid CONSTRAINT outbox_pkey PRIMARY KEY,
    recipient text NOT NULL,
    subject text NOT NULL,
    body_text text NOT NULL,
    body_html text NOT NULL,
    created_at timestamptz NOT NULL,
    -- After this what it says is of no use and it is not sent any more.
    expires_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    -- When the next attempt is due. Null: delivered or given up.
    next_attempt_at timestamptz,
    sent_at timestamptz,
    failure text
);
CREATE INDEX outbox_next_attempt_at_idx ON outbox (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX outbox_created_at_idx ON outbox (created_at);

-- When a subject (an ip or an address, hashed) did what it may do so often in a while. The times themselves, so that the bound
-- holds exactly, for every window and over all processes.
CREATE TABLE allowances (
    subject bytea CONSTRAINT allowances_pkey PRIMARY KEY,
    used_at timestamptz[] NOT NULL,
    last_used_at timestamptz NOT NULL,
    CONSTRAINT allowances_subject_check CHECK (octet_length(subject) = 32)
);
CREATE INDEX allowances_last_used_at_idx ON allowances (last_used_at);
