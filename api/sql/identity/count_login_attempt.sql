-- Counts an attempt before it is looked at, so that a thousand at once cannot all pass. Returns nothing while the subject waits.
-- After $3 attempts each further one doubles the wait, from one second up to $4; an hour of silence starts anew. A free attempt
-- begins no wait, not even until its own time: requests do not arrive in the order of their clocks.
INSERT INTO login_attempts AS a (subject, attempts, attempted_at, blocked_until)
VALUES ($1, 1, $2, 'epoch')
ON CONFLICT (subject) DO UPDATE SET
    attempts = CASE WHEN a.attempted_at < $2 - interval '1 hour' THEN 1 ELSE a.attempts + 1 END,
    attempted_at = greatest(a.attempted_at, $2),
    blocked_until = CASE
        WHEN a.attempted_at < $2 - interval '1 hour' OR a.attempts + 1 < $3::integer THEN timestamptz 'epoch'
        ELSE $2 + make_interval(
            secs => least(power(2, least(a.attempts + 1 - $3::integer, 20)), $4::double precision)
        )
    END
WHERE a.blocked_until <= $2
RETURNING attempts
