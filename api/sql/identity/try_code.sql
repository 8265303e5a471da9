-- Counts a try of the one code that is good for an address and a purpose, and spends the code when it is right or was tried too
-- often. A wrong try of several at once counts as each of them: the row is locked while it is looked at.
UPDATE one_time_codes SET
    tries = tries + 1,
    spent_at = CASE WHEN (code_mac = $3 AND usable) OR tries + 1 >= $5 THEN $4::timestamptz END
WHERE subject = $1 AND purpose = $2 AND spent_at IS NULL AND expires_at > $4
RETURNING code_mac = $3 AND usable AS "right!"
