package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/mtls"
)

const maxSnapshotBytes = 4 << 20

// Config is how to gather. The zero value works.
type Config struct {
	Concurrency int           // agents asked at a time; 64 if zero
	Timeout     time.Duration // for the whole gathering; 2 s if zero
	// Token is sent to the agents as bearer token, if not empty. Without TLS
	// whoever is on the network can read it.
	Token string
	// TLS reaches the agents over TLS; nil is plain HTTP.
	TLS *TLS
	// Transport reaches the agents; nil is a shared one without a proxy, or
	// that of TLS.
	Transport http.RoundTripper
}

// TLS is how to reach agents that serve TLS. It keeps connections, so make one
// and use it for all gatherings.
type TLS struct{ transport http.RoundTripper }

// NewTLS reaches agents whose certificates are for the name [Service], whatever
// their addresses, and are issued by the CA in files, or by one that the system
// trusts if it names none. The certificate in files, if any, is shown to them.
// All files may be replaced at any time.
func NewTLS(files mtls.Files, log *slog.Logger) (*TLS, error) {
	client, err := mtls.NewClient(files, Service, log)
	if err != nil {
		return nil, fmt.Errorf("TLS to the agents: %w", err)
	}
	t := transport.Clone()
	t.DialTLSContext = client.DialContext
	return &TLS{t}, nil
}

// reach is the scheme and the transport that reach the agents.
func (c Config) reach() (scheme string, by http.RoundTripper) {
	scheme, by = "http", transport
	if c.TLS != nil {
		scheme, by = "https", c.TLS.transport
	}
	if c.Transport != nil {
		by = c.Transport
	}
	return scheme, by
}

// Reading is what one agent answered.
type Reading struct {
	Snapshot Snapshot // meaningful only if Err is nil
	// Err is why there is no snapshot: the agent did not answer in time, did
	// not answer with a snapshot, or is the agent of another node.
	Err error
	At  time.Time // when the question was asked; Snapshot is no older
}

// transport keeps a connection to each agent between gatherings.
var transport = &http.Transport{
	MaxIdleConnsPerHost:    1,
	IdleConnTimeout:        90 * time.Second,
	MaxResponseHeaderBytes: 16 << 10,
}

// Gather asks the agents, given as host:port by node name, for their
// snapshots. The result has an entry for every one of them. It returns once
// all have answered or Timeout has passed.
func Gather(ctx context.Context, cfg Config, agents map[string]string) map[string]Reading {
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 64
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	scheme, by := cfg.reach()
	client := &http.Client{
		Transport: by,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()

	type answer struct {
		node string
		Reading
	}
	answers := make(chan answer, len(agents))
	var g errgroup.Group
	g.SetLimit(cfg.Concurrency)
	for node, addr := range agents {
		g.Go(func() error {
			at := time.Now()
			address := &url.URL{Scheme: scheme, Host: addr, Path: SnapshotPath}
			snapshot, err := fetch(ctx, client, cfg.Token, node, address)
			if err != nil {
				err = fmt.Errorf("agent of node %s at %s: %w", node, addr, err)
			}
			answers <- answer{node, Reading{snapshot, err, at}}
			return nil
		})
	}
	_ = g.Wait()
	close(answers)

	readings := make(map[string]Reading, len(agents))
	for a := range answers {
		readings[a.node] = a.Reading
	}
	return readings
}

// fetch gets the snapshot of one node.
func fetch(ctx context.Context, client *http.Client, token, node string, address *url.URL) (Snapshot, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return Snapshot{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return Snapshot{}, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return Snapshot{}, errors.New("refused the bearer token: give agents and readers the same one")
	case resp.StatusCode == http.StatusBadRequest && address.Scheme == "http":
		return Snapshot{}, errors.New("answered 400 Bad Request: it may serve TLS, which this reader is not set up for")
	case resp.StatusCode != http.StatusOK:
		return Snapshot{}, fmt.Errorf("answered %s to GET %s", resp.Status, SnapshotPath)
	}
	s, err := Decode(resp.Body)
	if err != nil {
		return Snapshot{}, err
	}
	if s.Node != node {
		return Snapshot{}, fmt.Errorf("is the agent of node %.128q: the address changed hands, or the agent runs with the wrong -node", s.Node)
	}
	return s, nil
}

// Decode reads one snapshot of at most 4 MiB and refuses one that no agent of
// this schema writes: numbers out of range, values without their quality,
// more GPUs than a host can have, or anything after the snapshot. It passes
// over fields that it does not know.
func Decode(r io.Reader) (Snapshot, error) {
	limited := &io.LimitedReader{R: r, N: maxSnapshotBytes + 1}
	d := json.NewDecoder(limited)
	var s Snapshot
	err := d.Decode(&s)
	if err == nil {
		if _, rest := d.Token(); !errors.Is(rest, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	switch {
	case limited.N <= 0:
		return Snapshot{}, fmt.Errorf("snapshot of more than %d bytes", maxSnapshotBytes)
	case err != nil:
		return Snapshot{}, fmt.Errorf("not a snapshot: %w", err)
	}
	if err := s.check(); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot of node %.128q: %w", s.Node, err)
	}
	return s, nil
}
