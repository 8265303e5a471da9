-- What the log does not hold of service accounts: their names, and whether their keys are good. That they are members, and with which
-- role, is in the log.

CREATE TABLE service_accounts (
    account_id uuid CONSTRAINT service_accounts_pkey PRIMARY KEY,
    -- A service account belongs to one workspace for ever.
    workspace_id uuid NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    -- While it stands here, no key of the account is good.
    disabled_at timestamptz,
    CONSTRAINT service_accounts_name_check CHECK (char_length(name) BETWEEN 1 AND 255)
);
CREATE INDEX service_accounts_workspace_id_idx ON service_accounts (workspace_id);

-- A key is a person's or a service account's.
ALTER TABLE api_keys ALTER COLUMN user_id DROP NOT NULL;
ALTER TABLE api_keys ADD COLUMN account_id uuid
    CONSTRAINT api_keys_account_id_fkey REFERENCES service_accounts ON DELETE CASCADE;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_holder_check CHECK (num_nonnulls(user_id, account_id) = 1);
CREATE INDEX api_keys_account_id_idx ON api_keys (account_id, created_at);

-- Whether a bulk job was asked for by a service account: what it does is then done by a program, and the log says so.
ALTER TABLE bulk_jobs ADD COLUMN by_service_account boolean NOT NULL DEFAULT false;
