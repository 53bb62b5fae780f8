SELECT id, subscription_id, tenant_id, events, from_at, to_at, rate, cancel, cursor_key, cursor_id, read_all, queued,
       delivered + dead + cancelled
  FROM relay.replays
 WHERE state = 'RUNNING'
 ORDER BY id
