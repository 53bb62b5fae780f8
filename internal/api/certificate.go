package api

import (
	"errors"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
)

// ClientCertificate is what is shown of a subscription's client certificate; null: it has none.
type ClientCertificate struct {
	_           struct{}  `json:"-" nullable:"true"`
	Subject     string    `json:"subject" doc:"Of the certificate (RFC 4514)." example:"CN=acme,O=Acme"`
	Fingerprint string    `json:"fingerprint_sha256" doc:"SHA-256 of the certificate (DER), in hexadecimal."`
	NotAfter    time.Time `json:"not_after" doc:"When it ends."`
	State       string    `json:"state" enum:"valid,expiring,expired" doc:"expiring: it ends within 30 days. expired: it is shown all the same, and the receiver decides."`
}

// NewClientCertificate is a certificate that receivers are shown, with its key.
type NewClientCertificate struct {
	Certificate string `json:"certificate" maxLength:"32768" doc:"The certificate as PEM, and behind it those that lead to its authority."`
	Key         string `json:"key" maxLength:"32768" writeOnly:"true" doc:"Its private key as PEM, without a passphrase; RSA of 2048 bits or more, ECDSA or Ed25519."`
}

func viewCertificate(c *deliver.Certificate) *ClientCertificate {
	if c == nil {
		return nil
	}
	return &ClientCertificate{Subject: c.Subject, Fingerprint: c.Fingerprint, NotAfter: c.NotAfter, State: c.State(time.Now())}
}

// hold makes of a client certificate what a subscription holds.
func (c *NewClientCertificate) hold() (secret.Secret, error) {
	made, err := deliver.NewClientCertificate(c.Certificate, c.Key, time.Now())
	var wrong *deliver.CertificateError
	if errors.As(err, &wrong) {
		return secret.Secret{}, invalid("/client_certificate/"+wrong.Part, sentence(wrong.Reason))
	}
	return made, err
}

// none tells whether the certificate is to be taken away.
func (c *NewClientCertificate) none() bool { return c.Certificate == "" && c.Key == "" }

// checkShown tells what is wrong with a client certificate at the subscription's URL; given: the call has one.
func checkShown(sub *deliver.Subscription, given bool) error {
	err := sub.CheckShown()
	switch {
	case err == nil:
		return nil
	case given:
		return invalid("/client_certificate", sentence(err.Error()))
	}
	return invalid("/url", sentence(err.Error()))
}
