SELECT current_user::text, current_setting('wal_level'), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
       current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots)::int,
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1),
       (SELECT r.rolsuper OR r.rolreplication
               OR coalesce((SELECT pg_has_role(r.oid, m.oid, 'MEMBER') FROM pg_roles m WHERE m.rolname = 'rds_replication'), false)
          FROM pg_roles r WHERE r.rolname = $2),
       has_database_privilege(current_database(), 'CREATE'),
       (SELECT count(*) FROM pg_namespace WHERE nspname IN ('relay', 'outbox')) = 2,
       EXISTS (SELECT FROM pg_publication WHERE pubname = $3),
       (SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
         WHERE s.nspname = $4 AND c.relname = $5)
