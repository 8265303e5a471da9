-- Takes one of $4 uses in the window that began at $3, and keeps the times that still count. Returns nothing when none is left.
INSERT INTO allowances AS a (subject, used_at, last_used_at)
VALUES ($1, ARRAY[$2::timestamptz], $2)
ON CONFLICT (subject) DO UPDATE SET
    used_at = ARRAY(SELECT used FROM unnest(a.used_at) AS used WHERE used > $3) || $2::timestamptz,
    last_used_at = greatest(a.last_used_at, $2)
WHERE (SELECT count(*) FROM unnest(a.used_at) AS used WHERE used > $3) < $4::bigint
RETURNING cardinality(used_at) AS "used!"
