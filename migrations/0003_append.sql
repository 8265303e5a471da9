-- The one place where order is made.
--
-- A flush of the appender calls this once, outside of any explicit transaction: one round trip, one transaction, any number
-- of intents, each all or none.
--
-- Why it is written as it is:
--
-- * The advisory lock comes first. It queues fairly and is held until the commit is visible, so positions are handed out in
--   commit order and a reader that has seen N has seen everything below N. Takeovers of leases take the same lock (see
--   store/sql/acquire_lease.sql), so a fence that was looked at under it stays true until the commit.
-- * Whatever is looked up is looked up in a later statement than the lock: a statement sees the snapshot from before its own
--   wait, so one clever statement that locks and reads would read what was true before the writer ahead of it committed.
--   This works in READ COMMITTED only, and is refused elsewhere.
-- * Every look-up is a correlated probe of an index, one scalar subquery per row, never a join: the plan is made once and
--   generic, perhaps while the tables are empty, and must not become wrong when they have grown. The planner settings below
--   hold it to that.
-- * Nothing here says ON CONFLICT DO NOTHING about events: that reports success for events that were not stored.
--
-- Writes, keys, fences and due times name their intent by ordinal, events name their write. Every array of one group has the
-- same length. `p_write_before` and `p_write_seq_before` count the batch's events before a write, in all and in its
-- workspace; when intents lose they are counted again here without the losers.
--
-- Returned: the head before the batch, the time stamped on it, and who lost: `known` intents whose key is known, `fenced`
-- intents whose lease was taken over, `moved` checks that failed. The caller's events stand at the positions that follow
-- from that.
CREATE FUNCTION append_lock_key() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 1279607122::bigint';

CREATE FUNCTION append_batch(
    p_check_stream uuid[], p_check_version bigint[],
    p_rest_intent integer[], p_rest_check integer[],
    p_key_intent integer[], p_key_scope text[], p_key text[], p_key_body_hash bytea[],
    p_key_write integer[], p_key_count integer[], p_key_versions text[], p_key_answer text[],
    p_fence_intent integer[], p_fence_reader text[], p_fence_epoch bigint[],
    p_workspace uuid[],
    p_write_intent integer[], p_write_workspace integer[], p_write_stream uuid[], p_write_category text[],
    p_write_version bigint[], p_write_count integer[], p_write_before bigint[], p_write_seq_before bigint[],
    p_event_write integer[], p_event_n integer[], p_event_id uuid[], p_event_type text[],
    p_event_schema_version smallint[], p_event_payload json[], p_event_metadata json[],
    p_done_intent integer[], p_done_stream uuid[], p_done_kind text[], p_done_key text[],
    p_due_intent integer[], p_due_stream uuid[], p_due_kind text[], p_due_key text[], p_due_at timestamptz[],
    OUT head_before bigint, OUT stamped_at timestamptz, OUT known integer[], OUT fenced integer[], OUT moved integer[]
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
    total bigint := cardinality(p_event_id);
    lost integer[];
    seq_base bigint[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'append_batch needs read committed' USING ERRCODE = 'invalid_transaction_state';
    END IF;

    PERFORM pg_advisory_xact_lock(append_lock_key());

    UPDATE log_head h
       SET position = h.position + total,
           recorded_at = greatest(clock_timestamp(), h.recorded_at + interval '1 microsecond')
     WHERE h.one
    RETURNING h.position - total, h.recorded_at INTO STRICT head_before, stamped_at;

    IF cardinality(p_key) > 0 THEN
        SELECT array_agg(k.intent) INTO known
          FROM unnest(p_key_intent, p_key_scope, p_key) AS k (intent, scope, key)
         WHERE (SELECT 1 FROM idempotency i WHERE i.scope = k.scope AND i.key = k.key) IS NOT NULL;
    END IF;

    IF cardinality(p_fence_intent) > 0 THEN
        SELECT array_agg(f.intent) INTO fenced
          FROM unnest(p_fence_intent, p_fence_reader, p_fence_epoch) AS f (intent, reader, epoch)
         WHERE (SELECT c.epoch FROM checkpoints c WHERE c.reader = f.reader) IS DISTINCT FROM f.epoch;
    END IF;

    SELECT array_agg(c.ordinal) INTO moved
      FROM unnest(p_check_stream, p_check_version) WITH ORDINALITY AS c (stream_id, version, ordinal)
     WHERE coalesce((SELECT e.version FROM events e WHERE e.stream_id = c.stream_id
                      ORDER BY e.version DESC LIMIT 1), 0) <> c.version;

    lost := known || fenced;
    IF moved IS NOT NULL THEN
        lost := lost || (SELECT array_agg(r.intent) FROM unnest(p_rest_intent, p_rest_check) AS r (intent, checked)
                          WHERE r.checked = ANY (moved));
    END IF;

    IF lost IS NOT NULL THEN
        SELECT array_agg(s.before ORDER BY s.ordinal), array_agg(s.seq_before ORDER BY s.ordinal), coalesce(sum(s.n), 0)
          INTO p_write_before, p_write_seq_before, total
          FROM (SELECT w.ordinal, w.n,
                       (sum(w.n) OVER (ORDER BY w.ordinal) - w.n)::bigint AS before,
                       (sum(w.n) OVER (PARTITION BY w.workspace ORDER BY w.ordinal) - w.n)::bigint AS seq_before
                  FROM (SELECT u.ordinal, u.workspace, CASE WHEN u.intent = ANY (lost) THEN 0 ELSE u.n END AS n
                          FROM unnest(p_write_intent, p_write_workspace, p_write_count)
                            WITH ORDINALITY AS u (intent, workspace, n, ordinal)) w) s;
        UPDATE log_head h SET position = head_before + total WHERE h.one;
    END IF;

    IF total > 0 THEN
        SELECT array_agg(coalesce((SELECT e.workspace_seq FROM events e WHERE e.workspace_id = w.id
                                    ORDER BY e.workspace_seq DESC LIMIT 1), 0) ORDER BY w.ordinal)
          INTO seq_base
          FROM unnest(p_workspace) WITH ORDINALITY AS w (id, ordinal);

        INSERT INTO events (position, version, workspace_seq, recorded_at, stream_id, workspace_id, event_id,
                            schema_version, category, type, payload, metadata)
        SELECT head_before + p_write_before[e.write] + e.n,
               p_write_version[e.write] + e.n,
               seq_base[p_write_workspace[e.write]] + p_write_seq_before[e.write] + e.n,
               stamped_at,
               p_write_stream[e.write],
               p_workspace[p_write_workspace[e.write]],
               e.id, e.schema_version, p_write_category[e.write], e.type, e.payload, e.metadata
          FROM unnest(p_event_write, p_event_n, p_event_id, p_event_type, p_event_schema_version,
                      p_event_payload, p_event_metadata)
            AS e (write, n, id, type, schema_version, payload, metadata)
         WHERE lost IS NULL OR p_write_intent[e.write] <> ALL (lost);

        -- A hint for other processes, one per flush: NOTIFY serialises commits of the whole server.
        PERFORM pg_notify('ledgerline_log', (head_before + total)::text);
    END IF;

    IF cardinality(p_key) > 0 THEN
        INSERT INTO idempotency (scope, key, body_hash, first_position, position, versions, answer, recorded_at)
        SELECT k.scope, k.key, k.body_hash,
               head_before + coalesce(p_write_before[k.write], 0) + 1,
               head_before + coalesce(p_write_before[k.write], 0) + k.n,
               k.versions, k.answer, stamped_at
          FROM unnest(p_key_intent, p_key_scope, p_key, p_key_body_hash, p_key_write, p_key_count, p_key_versions,
                      p_key_answer) AS k (intent, scope, key, body_hash, write, n, versions, answer)
         WHERE lost IS NULL OR k.intent <> ALL (lost);
    END IF;

    -- Removed before set, so that an intent may replace a due time by naming it in both.
    IF cardinality(p_done_intent) > 0 THEN
        DELETE FROM due_times d
         USING unnest(p_done_intent, p_done_stream, p_done_kind, p_done_key) AS x (intent, stream_id, kind, key)
         WHERE d.stream_id = x.stream_id AND d.kind = x.kind AND d.key = x.key
           AND (lost IS NULL OR x.intent <> ALL (lost));
    END IF;

    IF cardinality(p_due_intent) > 0 THEN
        INSERT INTO due_times (stream_id, kind, key, due_at)
        SELECT x.stream_id, x.kind, x.key, x.due_at
          FROM unnest(p_due_intent, p_due_stream, p_due_kind, p_due_key, p_due_at)
            AS x (intent, stream_id, kind, key, due_at)
         WHERE lost IS NULL OR x.intent <> ALL (lost)
        ON CONFLICT ON CONSTRAINT due_times_pkey DO UPDATE SET due_at = excluded.due_at;
    END IF;
END
$$;
