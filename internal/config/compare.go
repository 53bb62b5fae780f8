package config

// relation is a rule between two settings, told at the one that was set by hand.
type relation struct {
	small, large string
	holds        func(*Config) bool
	word         string // "less than" or "at most", of small towards large
}

var relations = []relation{
	{"deliver.handover_after", "deliver.timeout", func(c *Config) bool {
		return c.Deliver.HandoverAfter < c.Deliver.Timeout
	}, "less than"},
	{"deliver.connect_timeout", "deliver.timeout", func(c *Config) bool {
		return c.Deliver.ConnectTimeout <= c.Deliver.Timeout
	}, "at most"},
	{"deliver.breaker.first_probe", "deliver.breaker.max_probe", func(c *Config) bool {
		return c.Deliver.Breaker.FirstProbe <= c.Deliver.Breaker.MaxProbe
	}, "at most"},
	{"deliver.disable_warning", "deliver.disable_after", func(c *Config) bool {
		return c.Deliver.DisableAfter == 0 || c.Deliver.DisableWarning < c.Deliver.DisableAfter
	}, "less than"},
	{"cdc.status_interval", "cdc.silence_timeout", func(c *Config) bool {
		return c.CDC.StatusInterval < c.CDC.SilenceTimeout
	}, "less than"},
	{"outbox.partition_interval", "outbox.retention", func(c *Config) bool {
		return c.Outbox.PartitionInterval <= c.Outbox.Retention
	}, "at most"},
	// An event that never fits into the window would be parked each time it is taken up.
	{"outbox.max_payload", "deliver.window.bytes", func(c *Config) bool {
		return c.Outbox.MaxPayload <= c.Deliver.Window.Bytes
	}, "at most"},
}

// compare checks the rules between settings, as far as the settings themselves are without fault.
func (l *loader) compare() {
	c := l.config
	for _, r := range relations {
		if l.bad[r.small] || l.bad[r.large] || r.holds(c) {
			continue
		}
		small, large := settingOf[r.small].texts(c)[0], settingOf[r.large].texts(c)[0]
		if at := c.origins[r.small]; at.Source != SourceDefault {
			l.fault(at, r.small, small, r.word+" "+r.large+" ("+large+")", "")
			continue
		}
		word := map[string]string{"less than": "more than ", "at most": "at least "}[r.word]
		l.fault(c.origins[r.large], r.large, large, word+r.small+" ("+small+")", "")
	}
	if h := c.HTTP; h.OpsListen != "" && h.OpsListen == h.Listen && !l.bad["http.listen"] && !l.bad["http.ops_listen"] {
		l.fault(c.origins["http.ops_listen"], "http.ops_listen", h.OpsListen, "another address than http.listen", "")
	}
}
