-- A second factor of a person: codes of an authenticator app (TOTP, RFC 6238), and what stands between a first factor that was right
-- and a session.

CREATE TABLE second_factors (
    user_id uuid CONSTRAINT second_factors_pkey PRIMARY KEY
        CONSTRAINT second_factors_user_id_fkey REFERENCES users ON DELETE CASCADE,
    -- Sealed under the deployment's master key and bound to the person.
    sealed_secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- Null: begun, and not yet shown to work. It is asked for at sign-in from then on.
    confirmed_at timestamptz,
    -- The last step of 30 seconds whose code was taken: neither it nor an earlier one is taken again.
    last_step bigint NOT NULL DEFAULT 0
);

-- Codes for who has lost the app. Using one deletes it. They hold 80 random bits, so a plain hash tells nothing.
CREATE TABLE recovery_codes (
    user_id uuid NOT NULL CONSTRAINT recovery_codes_user_id_fkey REFERENCES second_factors ON DELETE CASCADE,
    code_hash bytea NOT NULL,
    CONSTRAINT recovery_codes_pkey PRIMARY KEY (user_id, code_hash),
    CONSTRAINT recovery_codes_code_hash_check CHECK (octet_length(code_hash) = 32)
);

-- Somebody whose first factor was right and who has no session yet. Answering a challenge deletes it.
CREATE TABLE sign_in_challenges (
    challenge_hash bytea CONSTRAINT sign_in_challenges_pkey PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT sign_in_challenges_user_id_fkey REFERENCES users ON DELETE CASCADE,
    -- Hash of the cookie of the browser that it was made for. Null: it was answered to whoever proved the first factor.
    browser_hash bytea,
    -- How the first factor was shown, for the audit.
    method text NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL,
    CONSTRAINT sign_in_challenges_challenge_hash_check CHECK (octet_length(challenge_hash) = 32),
    CONSTRAINT sign_in_challenges_browser_hash_check CHECK (octet_length(browser_hash) = 32)
);
CREATE INDEX sign_in_challenges_user_id_idx ON sign_in_challenges (user_id);
CREATE INDEX sign_in_challenges_expires_at_idx ON sign_in_challenges (expires_at);
