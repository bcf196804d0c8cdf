package redfish

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
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gpupool/gpupool/internal/httplimit"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	maxBody          = 4 << 20 // bytes of a reply
	maxHeader        = 64 << 10
	maxRedirects     = 3
)

// fingerprintPrefix begins a fingerprint, in the config and in errors.
const fingerprintPrefix = "sha256:"

// parseFingerprint reads Config.Fingerprint.
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

// tlsConfig says whom to talk to. It reads the CA file.
func tlsConfig(s settings) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case s.caFile != "":
		pem, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate in PEM form (-----BEGIN CERTIFICATE-----)", s.caFile)
		}
	case s.pin != nil:
		c.InsecureSkipVerify = true // VerifyConnection does it instead
		c.VerifyConnection = func(cs tls.ConnectionState) error {
			leaf := cs.PeerCertificates[0] // a client always gets one
			if sum := sha256.Sum256(leaf.Raw); !bytes.Equal(sum[:], s.pin) {
				return errPin{fingerprint(leaf)}
			}
			return nil
		}
	case s.insecure:
		c.InsecureSkipVerify = true
	}
	return c, nil
}

// newClient makes the HTTP client of one service. It has a connection of its
// own, kept between calls because a handshake costs a BMC up to seconds, and
// speaks HTTP/1.1 only, whose rules on repeated requests are simple: net/http
// sends a POST anew only if nothing of it was written.
func newClient(s settings, base http.RoundTripper) (*http.Client, *guard) {
	g := &guard{
		address: s.address,
		base:    httplimit.Transport{Base: base, Max: maxBody},
	}
	return &http.Client{Transport: g, CheckRedirect: g.redirect}, g
}

func newTransport(s settings) (*http.Transport, error) {
	c, err := tlsConfig(s)
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  nil, // BMCs are not behind one, and it would see their names
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:        c,
		TLSHandshakeTimeout:    handshakeTimeout,
		MaxConnsPerHost:        2, // one, and one to log out on while the first is stuck
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              protocols,
	}, nil
}

// guard is the way to one service. It adds the credential, so that gofish
// never has it; lets nothing go to another host, whatever links and redirects
// the service gives; and notes what came of the last request, which gofish's
// errors do not always say.
type guard struct {
	address string // host:port
	base    http.RoundTripper

	// Set by whoever has the turn.
	login func(*http.Request) // adds the credential, nil before there is one

	last atomic.Pointer[exchange]
}

// exchange is what came of one request.
type exchange struct {
	written atomic.Bool // a connection was there to write it to, so that it may have arrived
	status  int         // of the answer, 0 for none
	header  http.Header // of the answer
}

// errElsewhere refuses to follow a service to another host.
var errElsewhere = errors.New("it points to another host, which does not get the password")

// RoundTrip sends one request.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	x := new(exchange)
	g.last.Store(x)
	if !sameHost(req.URL, g.address) {
		return nil, errElsewhere
	}
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { x.written.Store(true) },
	})
	req = req.Clone(ctx)
	req.Header.Set("User-Agent", "gpupool")
	req.Header.Set("OData-Version", "4.0") // DSP0266 section 6.5
	if g.login != nil {
		g.login(req)
	}
	resp, err := g.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	x.status, x.header = resp.StatusCode, resp.Header
	return resp, nil
}

// redirect follows reads only, on the same host only, and not for long. What
// is not followed is the answer.
func (g *guard) redirect(req *http.Request, via []*http.Request) error {
	first := via[0].Method
	if (first != http.MethodGet && first != http.MethodHead) || len(via) > maxRedirects {
		return http.ErrUseLastResponse
	}
	if !sameHost(req.URL, g.address) {
		return errElsewhere
	}
	return nil
}

// forget makes [guard.seen] say that nothing was sent, until something is.
func (g *guard) forget() { g.last.Store(nil) }

// seen is what came of the last request.
func (g *guard) seen() (written bool, status int, header http.Header) {
	x := g.last.Load()
	if x == nil {
		return false, 0, nil
	}
	return x.written.Load(), x.status, x.header
}

// tlsMend says what to do about a handshake that failed, or nothing if it is
// not about that.
func tlsMend(err error) string {
	var unverified *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var pin errPin
	switch {
	case errors.As(err, &pin):
		return pin.Error()
	case errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0:
		seen := fingerprint(unverified.UnverifiedCertificates[0])
		return fmt.Sprintf("its certificate is not trusted: %v; set ca_file, or, once you have compared it with what the BMC itself shows, fingerprint = %q", unverified.Err, seen)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS on that port; correct address, or enable HTTPS in the BMC"
	case strings.Contains(err.Error(), "protocol version"): // crypto/tls has no type for its own alerts
		return "it offers no TLS 1.2 or newer; update the BMC's firmware"
	}
	return ""
}
