INSERT INTO worker_leases AS w (worker, epoch, slots, expires_at)
VALUES ($1, 1, $2, clock_timestamp() + $3::bigint * interval '1 millisecond')
ON CONFLICT ON CONSTRAINT worker_leases_pkey DO UPDATE
   SET epoch = CASE WHEN w.expires_at <= clock_timestamp() THEN w.epoch + 1 ELSE w.epoch END,
       slots = excluded.slots,
       expires_at = excluded.expires_at
RETURNING worker, epoch, slots, expires_at
