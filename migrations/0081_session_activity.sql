-- When a session was used last, noted about once a minute: whoever looks at the own devices sees which of them is in use. Null: not
-- since it was opened.
ALTER TABLE sessions ADD COLUMN last_active_at timestamptz;
