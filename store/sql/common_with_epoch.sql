-- The last position that an epoch has in common with the present one: the lowest at which any later epoch began. None where one of
-- these is not known, or where the epoch itself is not one of this log.
SELECT CASE
    WHEN $1 = head.epoch THEN head.position
    WHEN $1 > 0 AND later.known = head.epoch - $1 THEN later.began_after
    ELSE 0
END AS "position!"
FROM log_head AS head,
    LATERAL (
        SELECT count(*) AS known, min(e.began_after) AS began_after
        FROM log_epochs AS e
        WHERE e.epoch > $1 AND e.epoch <= head.epoch
    ) AS later
WHERE head.one
