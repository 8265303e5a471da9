-- After which position each epoch of the log began. Up to there an older epoch and this one are the same log, so a reader with a position
-- of the older one goes on from there, and takes back what it saw above.
CREATE TABLE log_epochs (
    epoch integer NOT NULL,
    began_after bigint NOT NULL,
    CONSTRAINT log_epochs_pkey PRIMARY KEY (epoch),
    CONSTRAINT log_epochs_epoch_positive CHECK (epoch > 0),
    CONSTRAINT log_epochs_began_after_not_negative CHECK (began_after >= 0)
);

-- Of a log that was restored before this table was made nothing is known: its readers begin again at the start.
INSERT INTO log_epochs (epoch, began_after) SELECT epoch, 0 FROM log_head WHERE one;
