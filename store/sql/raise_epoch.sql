WITH raised AS (
    UPDATE log_head SET epoch = epoch + 1 WHERE one RETURNING epoch, position
)
INSERT INTO log_epochs (epoch, began_after)
SELECT epoch, position FROM raised
RETURNING epoch
