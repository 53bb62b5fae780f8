-- The columns of the outbox. The type of a domain is what it stands for.
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated::text, b.typname::text, b.typcategory::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
 CROSS JOIN LATERAL (
       WITH RECURSIVE d AS (
            SELECT t.typtype, t.typbasetype, t.typname, t.typcategory FROM pg_type t WHERE t.oid = a.atttypid
            UNION ALL SELECT t.typtype, t.typbasetype, t.typname, t.typcategory FROM d JOIN pg_type t ON t.oid = d.typbasetype AND d.typtype = 'd')
       SELECT * FROM d WHERE d.typtype <> 'd') b
 WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
