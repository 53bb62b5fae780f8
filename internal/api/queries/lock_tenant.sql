SELECT pg_advisory_xact_lock(hashtextextended('relay.tenant:' || $1, 0))
