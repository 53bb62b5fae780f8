SELECT relay.advance($1, $2, $3, $4::text::pg_lsn, $5::text::pg_lsn, $6, $7, $8::text::pg_lsn, $9, $10)
