-- Leases a slice of a subject's window: $5 requests, or what is left of the $6 that it has. A window begins with the first request
-- after the last one ended ($3 is now, $4 when a window that begins now ends), so what a process holds of an old one counts no more.
INSERT INTO rate_windows AS held (subject, policy, ends_at, taken, granted)
VALUES ($1, $2, $4, $5, $5)
ON CONFLICT ON CONSTRAINT rate_windows_pkey DO UPDATE SET
    ends_at = CASE WHEN held.ends_at <= $3 THEN excluded.ends_at ELSE held.ends_at END,
    taken = CASE WHEN held.ends_at <= $3 THEN $5
        ELSE held.taken + least($5, greatest(0, $6 - held.taken)) END,
    granted = CASE WHEN held.ends_at <= $3 THEN $5
        ELSE least($5, greatest(0, $6 - held.taken)) END
RETURNING ends_at, taken, granted
