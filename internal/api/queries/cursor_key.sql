SELECT key FROM relay.cursor_key
