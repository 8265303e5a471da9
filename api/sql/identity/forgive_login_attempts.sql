-- Gives $2 attempts back. The wait goes with them when a further attempt would be free again, or when the attempt at $4, which is
-- among those given back, began it.
UPDATE login_attempts
SET attempts = greatest(attempts - $2::integer, 0),
    blocked_until = CASE
        WHEN attempts - $2::integer < $3::integer OR attempted_at = $4 THEN timestamptz 'epoch'
        ELSE blocked_until
    END
WHERE subject = $1
