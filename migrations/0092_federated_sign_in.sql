-- Sign-in with other providers (OpenID Connect).

-- Browsers that were sent to a provider and have not come back. Coming back deletes the row, so a state is good once.
CREATE TABLE federated_sign_ins (
    state_hash bytea CONSTRAINT federated_sign_ins_pkey PRIMARY KEY,
    provider text NOT NULL,
    -- Hash of the cookie of the browser that began: what it began, nobody else ends.
    browser_hash bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT federated_sign_ins_state_hash_check CHECK (octet_length(state_hash) = 32),
    CONSTRAINT federated_sign_ins_browser_hash_check CHECK (octet_length(browser_hash) = 32)
);
CREATE INDEX federated_sign_ins_expires_at_idx ON federated_sign_ins (expires_at);

-- Who somebody is at a provider. By issuer, because that is who says so, whatever the deployment calls it.
CREATE TABLE federated_identities (
    issuer text NOT NULL,
    subject text NOT NULL,
    user_id uuid NOT NULL CONSTRAINT federated_identities_user_id_fkey REFERENCES users ON DELETE CASCADE,
    linked_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    CONSTRAINT federated_identities_pkey PRIMARY KEY (issuer, subject)
);
CREATE INDEX federated_identities_user_id_idx ON federated_identities (user_id);
