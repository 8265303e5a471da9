-- Who may come in: people, their credentials, sessions and keys.
--
-- None of this is event-sourced, on purpose: it is personal or secret, so it must be erasable, and the log never forgets.
-- Events name a person by id only. Times are handed in by the process, so that expiry can be tested without waiting.

CREATE TABLE users (
    user_id uuid CONSTRAINT users_pkey PRIMARY KEY,
    email text NOT NULL,
    -- The address folded to lower case: two spellings of one address are one account.
    email_key text NOT NULL CONSTRAINT users_email_key_key UNIQUE,
    full_name text NOT NULL,
    email_verified_at timestamptz,
    -- When the personal workspace was created in the log. Null means that the process died in between: the next login creates it.
    personal_workspace_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT users_email_check CHECK (char_length(email) BETWEEN 3 AND 254),
    CONSTRAINT users_full_name_check CHECK (char_length(full_name) BETWEEN 1 AND 255)
);

CREATE TABLE credentials (
    user_id uuid CONSTRAINT credentials_pkey PRIMARY KEY
        CONSTRAINT credentials_user_id_fkey REFERENCES users ON DELETE CASCADE,
    -- Argon2id in PHC form, so the parameters of an old hash travel with it.
    password_hash text NOT NULL,
    changed_at timestamptz NOT NULL
);

-- No foreign key to users: the row of the first operator outlives an erased account, so that nobody inherits "first".
CREATE TABLE operators (
    user_id uuid CONSTRAINT operators_pkey PRIMARY KEY,
    -- True in exactly one row for ever: the first registered user. Null for those who were added.
    first_registered boolean CONSTRAINT operators_first_registered_key UNIQUE,
    added_at timestamptz NOT NULL,
    CONSTRAINT operators_first_registered_check CHECK (first_registered IS NULL OR first_registered)
);

CREATE TABLE sessions (
    session_id uuid CONSTRAINT sessions_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT sessions_user_id_fkey REFERENCES users ON DELETE CASCADE,
    ip text,
    user_agent text,
    created_at timestamptz NOT NULL,
    refreshed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    revoked_because text,
    CONSTRAINT sessions_revoked_check CHECK ((revoked_at IS NULL) = (revoked_because IS NULL))
);
CREATE INDEX sessions_user_id_idx ON sessions (user_id, created_at);

-- A session is a family of refresh tokens, of which only the newest is unspent. Spent ones stay until they expire, because
-- a spent token that comes back proves that it was copied.
CREATE TABLE refresh_tokens (
    token_hash bytea CONSTRAINT refresh_tokens_pkey PRIMARY KEY,
    session_id uuid NOT NULL CONSTRAINT refresh_tokens_session_id_fkey REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    spent_at timestamptz,
    CONSTRAINT refresh_tokens_token_hash_check CHECK (octet_length(token_hash) = 32)
);
CREATE INDEX refresh_tokens_session_id_idx ON refresh_tokens (session_id);

-- One-use tickets that open a WebSocket where no header can be set. Using one deletes it.
CREATE TABLE ws_tickets (
    ticket_hash bytea CONSTRAINT ws_tickets_pkey PRIMARY KEY,
    session_id uuid NOT NULL CONSTRAINT ws_tickets_session_id_fkey REFERENCES sessions ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    CONSTRAINT ws_tickets_ticket_hash_check CHECK (octet_length(ticket_hash) = 32)
);
CREATE INDEX ws_tickets_session_id_idx ON ws_tickets (session_id);

CREATE TABLE api_keys (
    api_key_id uuid CONSTRAINT api_keys_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT api_keys_user_id_fkey REFERENCES users ON DELETE CASCADE,
    name text NOT NULL,
    secret_hash bytea NOT NULL,
    -- What it may do at most: `read`, `write`, `execute`. Never more than its owner.
    scopes text[] NOT NULL,
    -- Null: every workspace of its owner.
    workspace_id uuid,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT api_keys_name_check CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT api_keys_secret_hash_check CHECK (octet_length(secret_hash) = 32)
);
CREATE INDEX api_keys_user_id_idx ON api_keys (user_id, created_at);

-- The keys that sign access tokens, shared by all processes. The private half is sealed under the deployment's master key.
CREATE TABLE signing_keys (
    kid text CONSTRAINT signing_keys_pkey PRIMARY KEY,
    public_key bytea NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- From when on its tokens are refused. Null: still good.
    retired_at timestamptz,
    CONSTRAINT signing_keys_public_key_check CHECK (octet_length(public_key) = 32)
);

-- How often a subject (an address or an ip, hashed: the table holds no contact data) tried to log in, and until when it waits.
CREATE TABLE login_attempts (
    subject bytea CONSTRAINT login_attempts_pkey PRIMARY KEY,
    attempts integer NOT NULL,
    attempted_at timestamptz NOT NULL,
    blocked_until timestamptz NOT NULL,
    CONSTRAINT login_attempts_subject_check CHECK (octet_length(subject) = 32)
);
CREATE INDEX login_attempts_attempted_at_idx ON login_attempts (attempted_at);
