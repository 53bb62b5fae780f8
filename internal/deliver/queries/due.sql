SELECT s.id, s.replay, (SELECT min(p.next_attempt_at) FROM relay.parked p
                         WHERE p.subscription_id = s.id AND p.next_attempt_at > $2
                           AND (p.replay_id IS NOT NULL) = s.replay)
  FROM unnest($1::uuid[], $3::boolean[]) AS s(id, replay)
