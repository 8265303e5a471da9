-- Takes the sums whose window ended before $1. Of two processes that ask at once each row goes to one.
DELETE FROM fact_sums
WHERE (tally, window_at) IN (
    SELECT tally, window_at FROM fact_sums WHERE ends_at <= $1 ORDER BY ends_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
RETURNING tally, user_id, count, first_at, last_at, ids, ips
