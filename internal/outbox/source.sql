-- What the catalogs say of the outbox: of its kind, of who may see all its rows, and of tables that have a part of them. No row
-- when there is no such table.
SELECT c.relkind::text, c.relpersistence::text, current_user::text, row_security_active(c.oid), pg_has_role(c.relowner, 'USAGE'),
       coalesce((SELECT c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls
                    AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE')) FROM pg_roles r WHERE r.rolname = $3), false),
       coalesce((SELECT pg_has_role(r.oid, c.relowner, 'USAGE') FROM pg_roles r WHERE r.rolname = $3), false),
       ARRAY(SELECT w.rulename::text FROM pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type = '3' AND w.is_instead ORDER BY 1),
       ARRAY(SELECT i.inhrelid::regclass::text FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind = 'r' ORDER BY 1),
       ARRAY(SELECT t.relid::text FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf AND l.relkind = 'f' ORDER BY 1),
       ARRAY(SELECT t.relid::text FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
              WHERE t.isleaf AND l.relkind = 'r' AND l.relpersistence <> 'p' AND l.oid <> c.oid ORDER BY 1),
       coalesce((SELECT to_jsonb(p) ->> 'pubgencols' = 's' FROM pg_publication p WHERE p.pubname = $4), false)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2
