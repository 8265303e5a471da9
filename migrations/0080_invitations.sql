-- Where invitations are sent, and the token in the mail that was sent last. Which are open, for which role and until when, is in the
-- log, which knows them by id alone: an address is personal, so it is here, where it can be erased.
CREATE TABLE invitations (
    invitation_id uuid CONSTRAINT invitations_pkey PRIMARY KEY,
    workspace_id uuid NOT NULL,
    -- Null once the invitation is closed. The row stays until its time is over, so that a repeated request finds what it repeats.
    email text,
    email_key text,
    token_hash bytea CONSTRAINT invitations_token_hash_key UNIQUE,
    -- The end of its time that the last mail speaks of: whoever finds another one in the log writes the next mail.
    mailed_expiry timestamptz,
    -- Since when somebody is about to change it in the log. Null: this row says what the log says.
    unsettled_at timestamptz,
    expires_at timestamptz NOT NULL,
    CONSTRAINT invitations_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT invitations_email_check CHECK ((email IS NULL) = (email_key IS NULL))
);
CREATE INDEX invitations_email_key_idx ON invitations (email_key) WHERE email_key IS NOT NULL;
CREATE INDEX invitations_unsettled_at_idx ON invitations (unsettled_at) WHERE unsettled_at IS NOT NULL;
CREATE INDEX invitations_expires_at_idx ON invitations (expires_at);
