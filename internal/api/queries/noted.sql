SELECT set_config('relay.noted', 'yes', true)
