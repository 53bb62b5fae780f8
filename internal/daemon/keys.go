package daemon

import (
	"github.com/outbox-relay/relay/internal/secret"
)

// tellKeys logs how secrets are stored, once at the start.
func (d *Daemon) tellKeys() {
	if d.keys.Load() == nil {
		d.log.Warn("the secrets of subscriptions are stored in the database as they are: `relay secrets generate-key` makes a keyset, " +
			"secrets.key_file names it, and `relay secrets seal` seals what is there")
		return
	}
	// The path, not the text, of what was read from a file.
	if path := d.cfg().Origin("secrets.key").Via; path != "" {
		if err := secret.Exposed(path); err != nil {
			d.log.Warn("the key that seals the secrets of subscriptions is not kept well", "error", err)
		}
	}
}

// rekey opens secrets with other keys from now on, unless the leader has open what they
// do not open. What only they open goes on.
func (d *Daemon) rekey(keys *secret.Keyring) error {
	l := d.current.Load()
	if l == nil {
		d.keys.Store(keys)
		return nil
	}
	changed, err := l.dir.Rekey(keys)
	if err != nil {
		return err
	}
	d.keys.Store(keys)
	for _, ep := range changed {
		l.dispatcher.Changed(ep)
	}
	return nil
}

// makeCurrent makes a leader that is set up the current one. A reload may have brought
// other keys and settings meanwhile.
func (d *Daemon) makeCurrent(l *leader) error {
	d.reloadMu.Lock()
	defer d.reloadMu.Unlock()
	changed, err := l.dir.Rekey(d.keys.Load())
	if err != nil {
		d.log.Error("the leader goes on with the keyset from before the reload", "error", err)
	}
	for _, ep := range changed {
		l.dispatcher.Changed(ep)
	}
	if l.settings != d.cfg() {
		if err := l.configure(); err != nil {
			return err
		}
	}
	d.current.Store(l)
	return nil
}
