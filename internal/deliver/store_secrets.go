package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
)

var (
	sqlStageSecret   = query("secret_stage")
	sqlUnstageSecret = query("secret_unstage")
	sqlPromoteSecret = query("secret_promote")
	sqlExpireSecret  = query("secret_expire")
	sqlForgetSecrets = query("secret_forget")
	sqlSecrets       = query("secrets")
	sqlSealSecret    = query("secret_seal")
)

// What a rotation is refused for. Its phases are: staged (the next secret signs
// beside the current one), promoted (it is the current one, and the one before
// signs beside it), and over, when that has expired.
var (
	ErrSecretStaged     = errors.New("a next secret is staged already: promote it, or unstage it first")
	ErrNoSecretStaged   = errors.New("no next secret is staged: stage one first")
	ErrOtherStaged      = errors.New("another secret was staged meanwhile")
	ErrSecretExpiring   = errors.New("the secret of the rotation before still signs: wait for its time, or expire it first")
	ErrNoSecretToExpire = errors.New("there is no previous secret: it has expired, or nothing was promoted")
	ErrSecretUnchanged  = errors.New("the next secret is the current one")
)

// changeTries bounds how often a change of a row begins anew because somebody else
// was faster.
const changeTries = 10

// errMoved says that a row is not any more as it was read.
var errMoved = errors.New("it is being changed by others: try again")

// StageSecret gives a subscription its next secret. From now on webhook-signature
// holds a signature of it behind that of the current one; X-Signature stays.
func (s Subscriptions) StageSecret(ctx context.Context, id uuid.UUID, next secret.Secret) (*Subscription, error) {
	if _, err := signature.Check(next.Reveal()); err != nil {
		return nil, fmt.Errorf("stage a secret of subscription %s: %w", id, err)
	}
	stored, err := s.Keys.Seal(next, slotNext.place(id))
	if err != nil {
		return nil, fmt.Errorf("stage a secret of subscription %s: %w", id, err)
	}
	return s.changeSecret(ctx, id, "stage a secret of", func(sub *Subscription, now time.Time) (string, []any, error) {
		switch {
		case sub.NextStagedAt != nil:
			return "", nil, ErrSecretStaged
		case sub.previousGood(now):
			return "", nil, ErrSecretExpiring
		case s.Keys == nil && sub.Locked != nil:
			return "", nil, sub.Locked // the next one would stand beside it as it is
		case sub.Secret == next:
			return "", nil, ErrSecretUnchanged
		}
		return sqlStageSecret, append([]any{id, stored}, sub.stored.args()...), nil
	})
}

// UnstageSecret takes the next secret back.
func (s Subscriptions) UnstageSecret(ctx context.Context, id uuid.UUID) (*Subscription, error) {
	return s.changeSecret(ctx, id, "unstage the next secret of", func(sub *Subscription, _ time.Time) (string, []any, error) {
		if sub.NextStagedAt == nil {
			return "", nil, ErrNoSecretStaged
		}
		return sqlUnstageSecret, []any{id, sub.stored.next.Reveal()}, nil
	})
}

// DefaultKeep is how long the secret before signs beside the one that was promoted when
// nobody says otherwise.
const DefaultKeep = 24 * time.Hour

// Promotion says how a secret is promoted.
type Promotion struct {
	Keep time.Duration // how long the one before still signs; 0: it goes at once
	// StagedAt, when it is set, is that of the secret that is meant: another one, which
	// was staged meanwhile, is not promoted.
	StagedAt *time.Time
}

// PromoteSecret makes the next secret the current one. X-Signature is of it from now
// on; webhook-signature holds signatures of it and of the one before.
func (s Subscriptions) PromoteSecret(ctx context.Context, id uuid.UUID, p Promotion) (*Subscription, error) {
	const what = "promote the next secret of"
	if p.Keep < 0 {
		return nil, fmt.Errorf("%s subscription %s: the time to keep the old one is negative", what, id)
	}
	return s.changeSecret(ctx, id, what, func(sub *Subscription, now time.Time) (string, []any, error) {
		switch {
		case sub.NextStagedAt == nil:
			return "", nil, ErrNoSecretStaged
		case p.StagedAt != nil && !p.StagedAt.Equal(*sub.NextStagedAt):
			return "", nil, ErrOtherStaged
		case sub.previousGood(now):
			return "", nil, ErrSecretExpiring
		}
		// Each is sealed for its column.
		next, err := s.Keys.Open(sub.stored.next.Reveal(), slotNext.place(id))
		if err != nil {
			return "", nil, fmt.Errorf("next secret: %w", err)
		}
		current, err := s.Keys.Seal(next, slotCurrent.place(id))
		if err != nil {
			return "", nil, err
		}
		var previous *string
		if p.Keep > 0 {
			old, err := s.Keys.Open(sub.stored.current.Reveal(), slotCurrent.place(id))
			if err != nil {
				return "", nil, fmt.Errorf("current secret: %w; or promote without keeping it (--keep 0s)", err)
			}
			text, err := s.Keys.Seal(old, slotPrevious.place(id))
			if err != nil {
				return "", nil, err
			}
			previous = &text
		}
		args := append([]any{id, current}, sub.stored.args()...)
		return sqlPromoteSecret, append(args, previous, p.Keep.Seconds()), nil
	})
}

// ExpireSecret ends the time of the previous secret.
func (s Subscriptions) ExpireSecret(ctx context.Context, id uuid.UUID) (*Subscription, error) {
	return s.changeSecret(ctx, id, "expire the previous secret of", func(sub *Subscription, now time.Time) (string, []any, error) {
		if !sub.previousGood(now) {
			return "", nil, ErrNoSecretToExpire
		}
		return sqlExpireSecret, []any{id, sub.stored.previous.Reveal()}, nil
	})
}

// changeSecret reads a subscription, lets decide say what is to be done, and does it
// in one statement, which finds no row when somebody has changed it meanwhile. It
// needs no transaction, and may stand in one.
func (s Subscriptions) changeSecret(ctx context.Context, id uuid.UUID, what string,
	decide func(sub *Subscription, now time.Time) (sql string, args []any, err error)) (*Subscription, error) {
	for range changeTries {
		sub, err := s.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		sql, args, err := decide(sub, time.Now())
		if err != nil {
			return nil, fmt.Errorf("%s subscription %s: %w", what, id, err)
		}
		tag, err := s.DB.Exec(ctx, sql, args...)
		if err != nil {
			return nil, fmt.Errorf("%s subscription %s: %w", what, id, err)
		}
		if tag.RowsAffected() > 0 {
			return s.Get(ctx, id)
		}
	}
	return nil, fmt.Errorf("%s subscription %s: %w", what, id, errMoved)
}

// ForgetSecrets removes secrets that have expired, which nobody signs with any more,
// from the table, and returns of how many subscriptions.
func (s Subscriptions) ForgetSecrets(ctx context.Context) (int64, error) {
	tag, err := s.DB.Exec(ctx, sqlForgetSecrets)
	if err != nil {
		return 0, fmt.Errorf("forget expired secrets: %w", err)
	}
	return tag.RowsAffected(), nil
}

// storedRow is what relay.subscriptions holds of one subscription's secrets.
type storedRow struct {
	id uuid.UUID
	storedSecrets
}

// readStored calls f with pages of all rows.
func (s Subscriptions) readStored(ctx context.Context, f func([]storedRow) error) error {
	const page = 200
	after := uuid.Nil
	for {
		rows, err := s.DB.Query(ctx, sqlSecrets, after, page)
		if err != nil {
			return fmt.Errorf("read secrets: %w", err)
		}
		list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (storedRow, error) {
			var id uuid.UUID
			var current string
			var next, previous, headers, certificate *string
			err := row.Scan(&id, &current, &next, &previous, &headers, &certificate)
			return storedRow{id, newStored(current, next, previous, headers, certificate)}, err
		})
		if err != nil {
			return fmt.Errorf("read secrets: %w", err)
		}
		if len(list) == 0 {
			return nil
		}
		if err := f(list); err != nil {
			return err
		}
		after = list[len(list)-1].id
	}
}

// SealReport says what one run of Seal found and did.
type SealReport struct {
	Key     uint32      `json:"key"`     // that seals
	Sealed  int         `json:"sealed"`  // subscriptions whose secrets were sealed, for the first time or anew
	Already int         `json:"already"` // that were sealed with this key before
	Moved   int         `json:"moved"`   // that somebody changed meanwhile: for another run
	Locked  []LockedRow `json:"locked"`  // whose secrets cannot be opened
}

// LockedRow is a subscription whose secret cannot be opened, and why.
type LockedRow struct {
	SubscriptionID uuid.UUID `json:"subscription_id"`
	Reason         string    `json:"reason"`
}

// Seal seals every secret in the database with the primary key. It may be stopped and
// run again at any time, and beside relays that have the key: what a secret says
// stays, so to them nothing changes.
func (s Subscriptions) Seal(ctx context.Context) (SealReport, error) {
	report := SealReport{Key: s.Keys.Primary(), Locked: []LockedRow{}}
	if s.Keys == nil {
		return report, errors.New("seal secrets: there is no key: set secrets.key_file (`relay secrets generate-key` makes a keyset)")
	}
	err := s.readStored(ctx, func(list []storedRow) error {
		batch := &pgx.Batch{}
		for _, row := range list {
			anew, done, err := s.reseal(row)
			switch {
			case errors.Is(err, secret.ErrLocked):
				report.Locked = append(report.Locked, LockedRow{row.id, err.Error()})
				continue
			case err != nil:
				return fmt.Errorf("seal secrets of subscription %s: %w", row.id, err)
			case done:
				report.Already++
				continue
			}
			batch.Queue(sqlSealSecret, append(append([]any{row.id}, anew.all()...), row.all()...)...)
		}
		if batch.Len() == 0 {
			return nil
		}
		results := s.DB.SendBatch(ctx, batch)
		sealed, moved := 0, 0
		for range batch.Len() {
			tag, err := results.Exec()
			if err != nil {
				return errors.Join(fmt.Errorf("seal secrets: %w", err), results.Close())
			}
			if tag.RowsAffected() == 0 {
				moved++
			} else {
				sealed++
			}
		}
		if err := results.Close(); err != nil {
			return fmt.Errorf("seal secrets: %w", err)
		}
		report.Sealed, report.Moved = report.Sealed+sealed, report.Moved+moved
		return nil
	})
	return report, err
}

// reseal seals a row's secrets anew; done when all are sealed with the primary key.
func (s Subscriptions) reseal(row storedRow) (anew storedSecrets, done bool, err error) {
	done = true
	for _, c := range []struct {
		at       slot
		from, to *secret.Secret
	}{{slotCurrent, &row.current, &anew.current}, {slotNext, &row.next, &anew.next}, {slotPrevious, &row.previous, &anew.previous},
		{slotHeaders, &row.headers, &anew.headers}, {slotCertificate, &row.certificate, &anew.certificate}} {
		if c.from.IsZero() {
			continue
		}
		text, err := s.Keys.Open(c.from.Reveal(), c.at.place(row.id))
		if err != nil {
			return anew, false, err
		}
		if key, _ := secret.KeyOf(c.from.Reveal()); key == s.Keys.Primary() {
			*c.to = *c.from
			continue
		}
		done = false
		stored, err := s.Keys.Seal(text, c.at.place(row.id))
		if err != nil {
			return anew, false, err
		}
		*c.to = secret.New(stored)
	}
	return anew, done, nil
}

// KeysInUse counts the stored secrets by the key that they are sealed with; 0 is for
// those that stand in the table as they are.
func (s Subscriptions) KeysInUse(ctx context.Context) (map[uint32]int, error) {
	used := make(map[uint32]int)
	err := s.readStored(ctx, func(list []storedRow) error {
		for _, row := range list {
			for _, stored := range []secret.Secret{row.current, row.next, row.previous, row.headers, row.certificate} {
				if !stored.IsZero() {
					key, _ := secret.KeyOf(stored.Reveal())
					used[key]++
				}
			}
		}
		return nil
	})
	return used, err
}
