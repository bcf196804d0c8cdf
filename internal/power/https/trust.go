// Package https is how drivers talk to services that may be anyone: whom to
// trust, how much to read, what a failed exchange proves, and what of it may be
// printed.
package https

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	maxHeader        = 64 << 10 // bytes of the header of a reply
)

// MaxBody is how much of a reply is read, in bytes.
const MaxBody = 4 << 20

// fingerprintPrefix begins a fingerprint, in configs and in errors.
const fingerprintPrefix = "sha256:"

// Trust says whose certificate is good. The zero value trusts the CAs of the
// operating system.
type Trust struct {
	// CAFile holds the PEM certificates to verify the service's with, instead
	// of those of the operating system.
	CAFile string
	// Fingerprint pins the service's own certificate: "sha256:" and the SHA-256
	// of its DER form in hex, colons allowed.
	Fingerprint string
	// Insecure talks to whoever answers.
	Insecure bool
}

// Validate returns every mistake, each begun by its key in configs: ca_file,
// fingerprint and insecure_skip_verify. It does no I/O.
func (t Trust) Validate() []error {
	var errs []error
	if _, err := parseFingerprint(t.Fingerprint); err != nil {
		errs = append(errs, fmt.Errorf("fingerprint: %w", err))
	}
	switch {
	case t.Insecure && (t.CAFile != "" || t.Fingerprint != ""):
		errs = append(errs, errors.New("insecure_skip_verify: is true, so that ca_file and fingerprint would mean nothing: keep one of the three"))
	case t.CAFile != "" && t.Fingerprint != "":
		errs = append(errs, errors.New("fingerprint: is set, and so is ca_file: keep the fingerprint for a self-signed certificate, ca_file for one that your CA signed"))
	}
	return errs
}

// parseFingerprint returns the SHA-256 of the certificate to trust, nil for
// none.
func parseFingerprint(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	digits, found := strings.CutPrefix(strings.ToLower(text), fingerprintPrefix)
	sum, err := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
	if !found || err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("%.100q is not a fingerprint: write %q and 64 hex digits, as in the error of a connection without it", text, fingerprintPrefix)
	}
	return sum, nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return fingerprintPrefix + hex.EncodeToString(sum[:])
}

// errPin is a handshake with a certificate that is not the pinned one.
type errPin struct{ seen string }

func (e errPin) Error() string {
	return fmt.Sprintf("its certificate is not the pinned one: it is now %s; if it was replaced on purpose, set fingerprint = %q", e.seen, e.seen)
}

// Config says it to crypto/tls. It reads the CA file.
func (t Trust) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	pin, err := parseFingerprint(t.Fingerprint)
	switch {
	case err != nil:
		return nil, fmt.Errorf("fingerprint: %w", err)
	case t.CAFile != "":
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate in PEM form (-----BEGIN CERTIFICATE-----)", t.CAFile)
		}
	case pin != nil:
		c.InsecureSkipVerify = true // VerifyConnection does it instead
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			leaf := cs.PeerCertificates[0] // a client always gets one
			if sum := sha256.Sum256(leaf.Raw); !bytes.Equal(sum[:], pin) {
				return errPin{fingerprint(leaf)}
			}
			return nil
		}
	case t.Insecure:
		c.InsecureSkipVerify = true
	}
	return c, nil
}

// Transport returns a transport with connections of its own, of which at most
// so many are open at once. They are kept between calls because a handshake
// costs a BMC up to seconds. It speaks HTTP/1.1 only, whose rules on repeated
// requests are simple: net/http sends a POST anew only if nothing of it was
// written. It uses no proxy, which would see where the credential goes. It
// reads the CA file.
func (t Trust) Transport(connections int) (*http.Transport, error) {
	c, err := t.Config()
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        c,
		TLSHandshakeTimeout:    handshakeTimeout,
		MaxConnsPerHost:        connections,
		MaxIdleConnsPerHost:    max(connections/2, 1),
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              protocols,
	}, nil
}

// CertificateFindings tells, for an audit, how long the certificate of a service
// is good. It is a warning within so long before its end.
func CertificateFindings(state *tls.ConnectionState, now time.Time, soon time.Duration) []power.Finding {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	f := power.Finding{About: "certificate", What: fmt.Sprintf("%s, good until %s", tls.VersionName(state.Version), leaf.NotAfter.UTC().Format(time.DateOnly))}
	switch left := leaf.NotAfter.Sub(now); {
	case left < 0:
		f.Level, f.What, f.Mend = power.Warning, "expired on "+leaf.NotAfter.UTC().Format(time.DateOnly), "have another one made, and pin that"
	case left < soon:
		f.Level, f.Mend = power.Warning, "renew it before then, or nothing will be powered"
	}
	return []power.Finding{f}
}

// Mend says what to do about a handshake that failed, or nothing if err is not
// about that. owner is who knows the right certificate, such as "the BMC
// itself".
func Mend(err error, owner string) string {
	var unverified *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var pin errPin
	switch {
	case errors.As(err, &pin):
		return pin.Error()
	case errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0:
		seen := fingerprint(unverified.UnverifiedCertificates[0])
		return fmt.Sprintf("its certificate is not trusted: %v; set ca_file, or, once you have compared it with what %s shows, fingerprint = %q", unverified.Err, owner, seen)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS on that port; correct the address, or enable HTTPS there"
	case strings.Contains(err.Error(), "protocol version"): // crypto/tls has no type for its own alerts
		return "it offers no TLS 1.2 or newer; update its software"
	}
	return ""
}
