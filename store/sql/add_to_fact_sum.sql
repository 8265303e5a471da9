-- Adds what one process counted to what all did in a window. Of a person who was erased meanwhile no network address is kept.
INSERT INTO fact_sums AS s (tally, window_at, ends_at, user_id, count, first_at, last_at, ids, ips)
VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8,
    CASE
        WHEN $4::uuid IS NULL
            OR EXISTS (SELECT 1 FROM users u WHERE u.user_id = $4)
            OR EXISTS (SELECT 1 FROM service_accounts a WHERE a.account_id = $4) THEN $9::text[]
        ELSE '{}'::text[]
    END
)
ON CONFLICT (tally, window_at) DO UPDATE SET
    count = s.count + excluded.count,
    first_at = least(s.first_at, excluded.first_at),
    last_at = greatest(s.last_at, excluded.last_at),
    ids = ARRAY(SELECT id FROM unnest(s.ids || excluded.ids) AS id GROUP BY id ORDER BY id LIMIT $10::integer),
    ips = ARRAY(SELECT ip FROM unnest(s.ips || excluded.ips) AS ip GROUP BY ip ORDER BY ip LIMIT $10::integer)
