-- Who holds up statements of this database for longer than a second, those who hold up most first.
SELECT blocker.pid AS "pid!",
       coalesce(blocker.application_name, '') AS "application!",
       coalesce(blocker.state, 'unknown') AS "state!",
       count(DISTINCT waiting.pid) AS "waiting!",
       extract(epoch FROM max(clock_timestamp() - waiting.query_start))::double precision AS "seconds!"
  FROM pg_stat_activity AS waiting
 CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
  JOIN pg_stat_activity AS blocker ON blocker.pid = blocking.pid
 WHERE waiting.datname = current_database() AND waiting.wait_event_type = 'Lock'
 GROUP BY blocker.pid, blocker.application_name, blocker.state
HAVING max(clock_timestamp() - waiting.query_start) > interval '1 second'
 ORDER BY count(DISTINCT waiting.pid) DESC, blocker.pid
 LIMIT 5
