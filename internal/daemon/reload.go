package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/secret"
)

// Reload reads the configuration again, checks it completely, and then swaps in
// what may change while running. A faulty one changes nothing.
func (d *Daemon) Reload() error {
	if d.opts.Reload == nil {
		return errors.New("this relay has no configuration to reload")
	}
	d.reloadMu.Lock()
	defer d.reloadMu.Unlock()
	next, err := d.opts.Reload()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	catalog, err := outbox.NewCatalog(next.Catalog.Files...)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if _, err := outbox.NewMapper(mappingOptions(next), catalog); err != nil { // for the next start
		return fmt.Errorf("reload: %w", err)
	}
	keys, err := secret.NewKeyring(next.Secrets.Key)
	if err != nil {
		return fmt.Errorf("reload: secrets.key: %w", err)
	}
	old := d.cfg()
	merged := config.Reloaded(old, next)
	if _, err := egress.New(EgressOptions(merged)); err != nil {
		return fmt.Errorf("reload: egress: %w", err)
	}
	if next.Secrets.Key != old.Secrets.Key {
		// The only step that may still be refused, so it comes before the others.
		if err := d.rekey(keys); err != nil {
			return fmt.Errorf("reload: secrets.key: %w", err)
		}
	}
	d.identities.Resize(identityOptions(merged))
	if err := d.policy.Reload(EgressOptions(merged)); err != nil {
		return fmt.Errorf("reload: egress: %w", err)
	}
	types := outbox.CompareCatalogs(d.catalog.Load(), catalog)
	d.catalog.Store(catalog)
	d.setPoster(merged)
	// Behind all that goes with them: who has seen these settings has seen it.
	d.settings.Store(merged)
	d.metrics.SetTenantCap(merged.Metrics.TenantLabel)
	if d.opts.Level != nil {
		d.opts.Level.Set(merged.Log.Level)
	}
	if l := d.current.Load(); l != nil {
		if err := l.configure(); err != nil {
			return fmt.Errorf("reload: %w", err)
		}
	}
	changed := config.Changed(old, next)
	waiting := config.NeedsRestart(changed)
	changed = slices.DeleteFunc(changed, func(key string) bool { return slices.Contains(waiting, key) })
	d.tellReload(changed, waiting, types)
	if slices.ContainsFunc(changed, func(key string) bool { return strings.HasPrefix(key, "egress.") }) {
		d.tellEgress(merged)
	}
	return nil
}

// tellReload says what a reload has brought: the keys that took effect, the types of the catalog that are others now, and the
// keys that wait for a restart, which stand in the status until then.
func (d *Daemon) tellReload(changed, waiting []string, types outbox.CatalogChange) {
	var attrs []any
	for _, a := range []struct {
		name string
		list []string
	}{{"changed", changed}, {"types_added", types.Added}, {"types_removed", types.Removed}, {"types_changed", types.Changed}} {
		if len(a.list) > 0 {
			attrs = append(attrs, a.name, a.list)
		}
	}
	switch {
	case len(attrs) > 0:
		d.log.Info("configuration reloaded", attrs...)
	case len(waiting) > 0:
		d.log.Info("configuration read, nothing took effect")
	default:
		d.log.Info("configuration reloaded, nothing changed")
	}
	d.waiting.Store(&waiting)
	if len(waiting) > 0 {
		d.log.Warn("settings changed that take effect at the next start only", "keys", waiting, "hint", "restart the relay")
	}
}

// needRestart returns the keys whose values in the configuration wait for a restart, as of the last reload.
func (d *Daemon) needRestart() []string {
	if keys := d.waiting.Load(); keys != nil {
		return *keys
	}
	return nil
}
