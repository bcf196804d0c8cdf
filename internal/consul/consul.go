// Package consul is all that gpupool knows of Consul: the lease that makes one
// process the actor of a pool, the pool's records (wanted count, intents,
// status) in the KV store, and the health of the agents on the hosts.
//
// Every record is written by one transaction that proves, on the server, that
// the writer may write: by check-and-set of the record's revision, and for
// what only the actor of a pool may write, by a check that the lease's session
// still holds the pool's lock. The clock of the writer is never the proof.
package consul

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/httplimit"
)

// The classes of error that callers tell apart with errors.Is. Each error
// wraps one of them with the key and the address it concerns.
var (
	// ErrNotFound: Consul answered and the record was never written.
	ErrNotFound = errors.New("not found")
	// ErrStale: the record has another revision than the writer's. Nothing
	// was written; read again and decide again.
	ErrStale = errors.New("somebody else wrote first")
	// ErrFenced: the writer does not hold the pool's lease, or holds it in
	// another generation. Nothing was written, and the writer must not act.
	ErrFenced = errors.New("the pool's lease is not held")
	// ErrUnreachable: Consul gave no answer, or has no leader. A write may
	// or may not have been done.
	ErrUnreachable = errors.New("cannot reach Consul: check that its agent runs and that the address is right")
	// ErrDenied: the ACL token does not allow it.
	ErrDenied = errors.New("denied by Consul: see the ACL rules in docs/reference/consul.md")
	// ErrCorrupt: a record is not what this version of gpupool writes.
	ErrCorrupt = errors.New("corrupt record")
)

// Config says how to reach Consul. An empty field falls back to Consul's own
// environment variable (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_CACERT and
// so on), and then to the default named with it.
type Config struct {
	Address    string // host:port, http(s)://host:port or unix:///path; default 127.0.0.1:8500
	Scheme     string // http or https, where Address has no scheme; default http
	Token      string // ACL token; never printed
	TokenFile  string // file with the ACL token, read once, by New; outranks Token
	Datacenter string // default: the datacenter of the Consul agent at Address

	CAFile     string // PEM file of the certificate authorities to trust
	CertFile   string // PEM file of the client certificate
	KeyFile    string // PEM file of the client's private key
	ServerName string // name expected in the server's certificate; default: the host of Address

	Prefix  string        // KV prefix of all keys; default DefaultPrefix
	Timeout time.Duration // for one request whose context has no earlier deadline; default DefaultTimeout
}

// Defaults of Config.
const (
	DefaultPrefix  = "gpupool/v1/"
	DefaultTimeout = 10 * time.Second
)

// maxBody bounds one answer of Consul, in bytes: the largest is the list of a
// pool's intents, below 8 kB for each host and some 300 B as a rule.
const maxBody = 64 << 20

var prefixRule = regexp.MustCompile(`^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$`)

// Validate reports every mistake of the configuration at once.
func (c Config) Validate() error {
	var errs []error
	if c.Prefix != "" && !prefixRule.MatchString(c.Prefix) {
		errs = append(errs, fmt.Errorf("consul prefix %q: want path segments of letters, digits, '.', '_' and '-', such as %q", c.Prefix, DefaultPrefix))
	}
	switch c.Scheme {
	case "", "http", "https":
	default:
		errs = append(errs, fmt.Errorf("consul scheme %q: want http or https", c.Scheme))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("consul timeout %s: want more than 0", c.Timeout))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("consul client certificate: want both a certificate file and a key file, or neither"))
	}
	return errors.Join(errs...)
}

// Client reads and writes gpupool's part of Consul. It is safe for concurrent
// use.
type Client struct {
	api     *api.Client
	addr    string
	prefix  string
	timeout time.Duration
}

// New makes a client. It reads the certificate and token files that are
// configured, and does no other I/O: Consul may be down.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	ac := api.DefaultConfig()
	override(&ac.Address, cfg.Address)
	override(&ac.Scheme, cfg.Scheme)
	override(&ac.Datacenter, cfg.Datacenter)
	override(&ac.TLSConfig.CAFile, cfg.CAFile)
	override(&ac.TLSConfig.CertFile, cfg.CertFile)
	override(&ac.TLSConfig.KeyFile, cfg.KeyFile)
	override(&ac.TLSConfig.Address, cfg.ServerName)
	if cfg.Token != "" {
		// A token file in the environment would outrank the given token.
		ac.Token, ac.TokenFile = cfg.Token, ""
	}
	override(&ac.TokenFile, cfg.TokenFile)

	addr := ac.Address
	hc, err := api.NewHttpClient(ac.Transport, ac.TLSConfig)
	if err != nil {
		return nil, fmt.Errorf("consul at %s: %w", addr, err)
	}
	hc.Transport = dated{httplimit.Transport{Base: hc.Transport, Max: maxBody}}
	ac.HttpClient = hc
	cl, err := api.NewClient(ac)
	if err != nil {
		return nil, fmt.Errorf("consul at %s: %w", addr, err)
	}

	prefix := strings.TrimSuffix(cmp.Or(cfg.Prefix, DefaultPrefix), "/") + "/"
	return &Client{api: cl, addr: addr, prefix: prefix, timeout: cmp.Or(cfg.Timeout, DefaultTimeout)}, nil
}

func override(dst *string, value string) {
	if value != "" {
		*dst = value
	}
}

// Address is where the client sends its requests.
func (c *Client) Address() string { return c.addr }

// consistent is for reads that decide what is done to a host: the answer comes
// from a leader that made sure of being the leader.
func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// bounded gives a request its deadline.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// get reads one key, ErrNotFound if there is none.
func (c *Client) get(ctx context.Context, key string) (*api.KVPair, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	pair, _, err := c.api.KV().Get(key, consistent(reqCtx))
	if err != nil {
		return nil, c.failed(ctx, "read", key, err)
	}
	if pair == nil {
		return nil, fmt.Errorf("read %s in Consul at %s: %w", key, c.addr, ErrNotFound)
	}
	return pair, nil
}

// refusal is why a transaction was rolled back.
type refusal struct {
	op   int    // index of the operation that failed
	what string // what Consul said of it
}

// txn runs KV operations as one transaction and returns one pair for each, or
// the first refusal. key names the transaction in errors.
func (c *Client) txn(ctx context.Context, key string, ops ...*api.KVTxnOp) ([]*api.KVPair, *refusal, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	list := make(api.TxnOps, len(ops))
	for i, op := range ops {
		list[i] = &api.TxnOp{KV: op}
	}
	ok, resp, _, err := c.api.Txn().Txn(list, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return nil, nil, c.failed(ctx, "write", key, err)
	}
	if !ok {
		if len(resp.Errors) == 0 {
			return nil, nil, fmt.Errorf("write %s in Consul at %s: refused without a reason", key, c.addr)
		}
		first := resp.Errors[0]
		if strings.Contains(first.What, "Permission denied") {
			return nil, nil, fmt.Errorf("write %s in Consul at %s: %w: %s", key, c.addr, ErrDenied, first.What)
		}
		return nil, &refusal{op: first.OpIndex, what: first.What}, nil
	}
	pairs := make([]*api.KVPair, 0, len(resp.Results))
	for _, r := range resp.Results {
		if r.KV != nil {
			pairs = append(pairs, r.KV)
		}
	}
	if len(pairs) != len(ops) {
		return nil, nil, fmt.Errorf("write %s in Consul at %s: %d results for %d operations", key, c.addr, len(pairs), len(ops))
	}
	return pairs, nil, nil
}

// failed classifies an error of a request. ctx is the caller's: its end is the
// caller's doing, while the end of our own deadline is Consul's.
func (c *Client) failed(ctx context.Context, verb, what string, err error) error {
	class := ErrUnreachable
	var status api.StatusError
	switch {
	case ctx.Err() != nil:
		class = ctx.Err()
	case errors.As(err, &status) && status.Code == http.StatusForbidden,
		strings.Contains(err.Error(), "Permission denied"):
		class = ErrDenied
	case errors.As(err, &status) && status.Code < http.StatusInternalServerError:
		return fmt.Errorf("%s %s in Consul at %s: %w", verb, what, c.addr, err)
	}
	return fmt.Errorf("%s %s in Consul at %s: %w: %w", verb, what, c.addr, class, err)
}

// Bounds of a record in the KV store.
const (
	maxRecord = 8 << 10  // bytes of a want or an intent
	maxStatus = 96 << 10 // bytes of a status
	maxText   = 1 << 10  // bytes of one free text in a record
)

// decode reads a record strictly: an unknown field, a wrong type or trailing
// data is an error, because a record that is half understood would be written
// back without its other half. A change of the format takes a new prefix.
func (c *Client) decode(pair *api.KVPair, limit int, into any) error {
	if len(pair.Value) > limit {
		return c.corrupt(pair.Key, fmt.Errorf("%d bytes, want at most %d", len(pair.Value), limit))
	}
	dec := json.NewDecoder(bytes.NewReader(pair.Value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return c.corrupt(pair.Key, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return c.corrupt(pair.Key, errors.New("data after the record"))
	}
	return nil
}

func (c *Client) corrupt(key string, err error) error {
	return fmt.Errorf("%w %s in Consul at %s: %w (look at it with `consul kv get %s`; remove it with `consul kv delete %s`)",
		ErrCorrupt, key, c.addr, err, key, key)
}

// clip shortens a free text to what a record may hold, at a rune's start.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:limit-len(more)], "") + more
}
