UPDATE checkpoints
   SET owner = $2,
       epoch = epoch + 1,
       expires_at = clock_timestamp() + $3::bigint * interval '1 millisecond'
 WHERE reader = $1
   AND (owner IS NULL OR owner = $2 OR expires_at <= clock_timestamp())
RETURNING epoch, position
