SELECT relay.advance($1, $2, $3::text::pg_lsn, $4::text::pg_lsn, $5, $6, $7::text::pg_lsn, $8)
