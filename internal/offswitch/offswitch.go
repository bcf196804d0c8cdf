// Package offswitch shuts a host down through its agent, for machines that have
// no power controller which could. An order is signed with a key that the
// host's agent and whoever gives orders share, is for one host, is good once,
// and for seconds only: one that was held up on its way is never carried out
// late, as a power controller may do.
package offswitch

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	// Path is where an agent takes orders, by POST.
	Path = "/v1/off"
	// header has the order's signature: HMAC-SHA256 (RFC 2104) of the body, in
	// hexadecimal.
	header = "Gpupool-Signature"
	// Life is how long an order is good.
	Life = 10 * time.Second
	// skew is how far the two clocks may be apart.
	skew = 20 * time.Second
	// MinKey is the least length of a key, in bytes.
	MinKey = 16

	maxBody = 4 << 10
)

// order is what is signed.
type order struct {
	Node  string    `json:"node"`  // name of the Nomad node that is to go off
	By    string    `json:"by"`    // who orders it, for the host's log
	Until time.Time `json:"until"` // when it is not good any more
	Nonce string    `json:"nonce"` // no two orders have the same
}

func sign(key, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// The classes of error of [Send].
var (
	// ErrUnreachable: the agent was not reached, and does not know of the order.
	ErrUnreachable = errors.New("agent unreachable")
	// ErrKey: the agent does not take orders that are signed with this key.
	ErrKey = errors.New("agent refused the key")
	// ErrCertificate: the agent asks for a client certificate, and takes none or
	// not this one. It does not know of the order.
	ErrCertificate = errors.New("agent refused the client certificate")
	// ErrRefused: the agent understood the order and said no.
	ErrRefused = errors.New("agent refused the order")
	// ErrUnclear: the order was sent, and nobody knows what became of it.
	ErrUnclear = errors.New("outcome of the order is not known")
)

// Sender is who gives orders.
type Sender struct {
	Key []byte
	By  string
	// DialTLS connects to agents that serve TLS. Nil: they do not.
	DialTLS func(ctx context.Context, network, address string) (net.Conn, error)
}

// Send orders the host of a node, whose agent is at address (host:port), to
// shut down. It returns when the agent has accepted that.
func (s Sender) Send(ctx context.Context, address, node string) error {
	now := time.Now()
	body, err := json.Marshal(order{Node: node, By: s.By, Until: now.Add(Life).UTC(), Nonce: rand.Text()})
	if err != nil {
		return err
	}
	at := url.URL{Scheme: "http", Host: address, Path: Path}
	if s.DialTLS != nil {
		at.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	req.Header.Set(header, sign(s.Key, body))
	req.GetBody = nil // an order is sent once
	sent := false
	connections := &http.Transport{DialTLSContext: s.DialTLS}
	defer connections.CloseIdleConnections()
	client := &http.Client{
		Transport:     watchful{connections, &sent},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if s.DialTLS != nil {
		if err := greet(ctx, connections, at); err != nil {
			return err
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		if sent {
			return fmt.Errorf("%w: %w", ErrUnclear, err)
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close() //nolint:errcheck // the status is what counts
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	text = bytes.TrimSpace(text)
	switch resp.StatusCode {
	case http.StatusAccepted:
		return nil
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %s", ErrKey, text)
	case http.StatusNotFound:
		return fmt.Errorf("%w: it takes none: give it a key with -off-key", ErrRefused)
	}
	return fmt.Errorf("%w: %s", ErrRefused, text)
}

// greet asks an agent that serves TLS whether it runs, over the connection that
// the order will take. In TLS 1.3 a client learns that its certificate was refused
// only when it waits for an answer, and an order without an answer is unclear.
func greet(ctx context.Context, connections http.RoundTripper, at url.URL) error {
	at.Path = "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	resp, err := connections.RoundTrip(req)
	if said, ok := errors.AsType[*net.OpError](err); ok && said.Op == "remote error" { // an alert
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close()                                        //nolint:errcheck // only read
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)) // so that the connection can be used again
	return nil
}

// watchful notes whether a request's body was read, without which nothing of an
// order can have been understood.
type watchful struct {
	http.RoundTripper
	sent *bool
}

func (w watchful) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Body = &noted{req.Body, w.sent}
	return w.RoundTripper.RoundTrip(req)
}

type noted struct {
	io.ReadCloser
	sent *bool
}

func (n *noted) Read(p []byte) (int, error) {
	*n.sent = true
	return n.ReadCloser.Read(p)
}

// Switch takes orders on a host. It is an http.Handler.
type Switch struct {
	Node string
	Key  func() ([]byte, error) // read anew for each order, so that it can be replaced
	// Busy says why the host must not go off now; empty if it may.
	Busy func() string
	// Off begins the shutdown and returns.
	Off func(by string) error

	mu   sync.Mutex
	used map[string]time.Time // nonces of orders that are still good
}

// ServeHTTP carries out one order, or says why not.
func (s *Switch) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status, err := s.take(time.Now(), body, r.Header.Get(header))
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (s *Switch) take(now time.Time, body []byte, signature string) (status int, _ error) {
	key, err := s.Key()
	if err != nil || len(key) < MinKey {
		return http.StatusInternalServerError, errors.New("this agent cannot read its key")
	}
	if !hmac.Equal([]byte(sign(key, body)), []byte(signature)) {
		return http.StatusUnauthorized, errors.New("the order is not signed with this agent's key")
	}
	var o order
	if err := json.Unmarshal(body, &o); err != nil {
		return http.StatusBadRequest, fmt.Errorf("not an order: %w", err)
	}
	switch {
	case o.Node != s.Node:
		return http.StatusConflict, fmt.Errorf("the order is for node %.128q, and this is %q", o.Node, s.Node)
	case now.After(o.Until.Add(skew)):
		return http.StatusConflict, fmt.Errorf("the order was good until %s, and here it is %s: it comes late, or the clocks differ", o.Until.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case o.Until.After(now.Add(Life + skew)):
		return http.StatusConflict, fmt.Errorf("the order is good until %s, longer than orders may be: here it is %s", o.Until.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case o.Nonce == "":
		return http.StatusBadRequest, errors.New("the order has no nonce")
	}
	// One order at a time, so that no two look at the host, and act, at once.
	s.mu.Lock()
	defer s.mu.Unlock()
	for nonce, until := range s.used {
		if now.After(until.Add(skew)) {
			delete(s.used, nonce)
		}
	}
	if _, again := s.used[o.Nonce]; again {
		return http.StatusConflict, errors.New("the order was given before")
	}
	if s.used == nil {
		s.used = make(map[string]time.Time)
	}
	s.used[o.Nonce] = o.Until
	if why := s.Busy(); why != "" {
		return http.StatusConflict, errors.New("the host must not go off: " + why)
	}
	if err := s.Off(o.By); err != nil {
		return http.StatusInternalServerError, fmt.Errorf("shut down: %w", err)
	}
	return http.StatusAccepted, nil
}
