-- The sessions and API keys among these ids that are good at this moment, with what a request needs to know of them.
-- One statement for all requests that wait at the same time; each id is a point read of a primary key.
SELECT
    s.session_id AS "credential_id!",
    s.user_id AS "user_id!",
    o.user_id IS NOT NULL AS "operator!",
    s.expires_at AS "expires_at!",
    NULL::bytea AS "secret_hash?",
    NULL::text[] AS "scopes?",
    NULL::uuid AS "workspace_id?",
    false AS "service_account!"
FROM sessions s
LEFT JOIN operators o ON o.user_id = s.user_id
WHERE s.session_id = ANY ($1) AND s.revoked_at IS NULL AND s.expires_at > $3
UNION ALL
SELECT
    k.api_key_id,
    coalesce(k.user_id, k.account_id),
    o.user_id IS NOT NULL,
    k.expires_at,
    k.secret_hash,
    k.scopes,
    coalesce(a.workspace_id, k.workspace_id),
    a.account_id IS NOT NULL
FROM api_keys k
LEFT JOIN operators o ON o.user_id = k.user_id
LEFT JOIN service_accounts a ON a.account_id = k.account_id
WHERE k.api_key_id = ANY ($2) AND k.revoked_at IS NULL AND k.expires_at > $3 AND a.disabled_at IS NULL
