-- Makes a key of a person ($2) or a service account ($3), who must have fewer than $10 that have not ended.
INSERT INTO api_keys (api_key_id, user_id, account_id, name, secret_hash, scopes, workspace_id, created_at, expires_at)
SELECT $1, $2::uuid, $3::uuid, $4, $5, $6, $7, $8, $9
WHERE (
    SELECT count(*) FROM api_keys
    WHERE (user_id = $2 OR account_id = $3) AND revoked_at IS NULL AND expires_at > $8
) < $10
