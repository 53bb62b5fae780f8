-- What is missing, or may not be used, of the objects that the relay needs: catalogs only, and no lookup by name that
-- would raise an error for want of a right. A row for each.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS w(kind, nsp, name, rights, n)
), found AS (
    SELECT w.*, s.oid AS nspoid, c.oid AS class, f.oids AS functions
      FROM wanted w
      LEFT JOIN pg_namespace s ON s.nspname = w.nsp
      LEFT JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = w.name AND w.kind IN ('table', 'sequence')
      LEFT JOIN LATERAL (SELECT array_agg(p.oid) AS oids FROM pg_proc p
                          WHERE p.pronamespace = s.oid AND p.proname = w.name AND w.kind = 'function') f ON true
), lacking AS (
    SELECT kind, nsp, name, n,
           CASE kind WHEN 'trigger' THEN NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                                                      WHERE c.relnamespace = nspoid AND t.tgname = name)
                     WHEN 'schema' THEN nspoid IS NULL WHEN 'function' THEN functions IS NULL ELSE class IS NULL END AS missing,
           ARRAY(SELECT r FROM unnest(string_to_array(rights, ',')) r
                  WHERE NOT coalesce(CASE kind
                        WHEN 'schema' THEN has_schema_privilege(nspoid, r)
                        WHEN 'table' THEN has_table_privilege(class, r)
                        WHEN 'sequence' THEN has_sequence_privilege(class, r)
                        WHEN 'function' THEN (SELECT bool_and(has_function_privilege(o, r)) FROM unnest(functions) o) END, true)) AS lacks
      FROM found
)
SELECT current_user::text, current_setting('transaction_read_only') = 'on', l.kind, l.nsp, l.name, l.missing, l.lacks
  FROM (SELECT 1) one LEFT JOIN lacking l ON l.missing OR cardinality(l.lacks) > 0
 ORDER BY l.n
