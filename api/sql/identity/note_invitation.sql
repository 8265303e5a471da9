-- Notes an address before its invitation goes into the log. The token of one that was closed is forgotten: it must not come to life
-- again with the invitation.
INSERT INTO invitations (invitation_id, workspace_id, email, email_key, unsettled_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (invitation_id) DO UPDATE SET
    email = excluded.email,
    email_key = excluded.email_key,
    token_hash = CASE WHEN invitations.email IS NULL THEN NULL ELSE invitations.token_hash END,
    unsettled_at = excluded.unsettled_at,
    expires_at = greatest(invitations.expires_at, excluded.expires_at)
