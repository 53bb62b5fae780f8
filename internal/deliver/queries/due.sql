SELECT s.id, (SELECT min(p.next_attempt_at) FROM relay.parked p
               WHERE p.subscription_id = s.id AND p.next_attempt_at > $2)
  FROM unnest($1::uuid[]) AS s(id)
