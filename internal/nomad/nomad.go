// Package nomad is all that gpupool knows of Nomad: the nodes of a pool's
// hosts and the work on them, the GPUs that jobs hold and wait for, and the
// three changes it makes to a node, which are to cordon, drain and enable it.
//
// Reads are answered by Nomad's leader. Where several make one picture they
// are in the order that keeps it safe: nodes first, then what runs on them, so
// that a node seen ineligible is seen with all the work that it will get.
package nomad

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/httplimit"
)

// The classes of error that callers tell apart with errors.Is. Each error
// wraps one of them with what was asked and the address.
var (
	// ErrUnreachable: Nomad gave no answer, or has no leader. A change may
	// or may not have been made.
	ErrUnreachable = errors.New("cannot reach Nomad: check that its servers run and that the address is right")
	// ErrDenied: the ACL token does not allow it.
	ErrDenied = errors.New("denied by Nomad: see the ACL policy in docs/reference/nomad.md")
	// ErrNotFound: Nomad answered and has no such node.
	ErrNotFound = errors.New("not found")
	// ErrForeign: somebody else drains the node, and it was left alone.
	ErrForeign = errors.New("the node is being drained by somebody else")
)

// Config says how to reach Nomad.
type Config struct {
	// API is the address, region, token, TLS and so on, in the API's own
	// words. Default: Nomad's environment variables (NOMAD_ADDR and so on),
	// and then http://127.0.0.1:4646. It is not changed.
	API *api.Config
	// Timeout is for one request whose context has no earlier deadline.
	// Default DefaultTimeout.
	Timeout time.Duration
	// Logger tells of what an operator should mend, such as two nodes of one
	// name, once each. Default none.
	Logger hclog.Logger
}

// DefaultTimeout is the default of Config.Timeout.
const DefaultTimeout = 10 * time.Second

// Bounds of what is read.
const (
	maxBody = 64 << 20 // bytes of one answer
	maxPage = 500      // items of one answer of a list
	maxList = 200_000  // items of a whole list
)

// Client reads and changes Nomad. It is safe for concurrent use.
type Client struct {
	api     *api.Client
	cfg     *api.Config // of api
	http    *http.Client
	addr    string
	timeout time.Duration
	perPage int32
	log     hclog.Logger
	asks    asks

	mu   sync.Mutex
	said map[string]string // what was logged of a node name
}

// New makes a client. It reads the certificate files that are configured, and
// does no other I/O: Nomad may be down.
func New(cfg Config) (*Client, error) {
	ac := api.DefaultConfig()
	if cfg.API != nil {
		given := *cfg.API
		if given.TLSConfig == nil {
			given.TLSConfig = ac.TLSConfig
		}
		ac = &given
	}
	addr := cmp.Or(ac.Address, "http://127.0.0.1:4646")
	if ac.HttpClient == nil && !strings.HasPrefix(addr, "unix://") {
		hc, err := httpClient(cleanhttp.DefaultPooledTransport(), ac.TLSConfig)
		if err != nil {
			return nil, fmt.Errorf("nomad at %s: %w", addr, err)
		}
		ac.HttpClient = hc
	}
	cl, err := api.NewClient(ac)
	if err != nil {
		return nil, fmt.Errorf("nomad at %s: %w", addr, err)
	}
	log := cfg.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &Client{
		api:     cl,
		cfg:     ac,
		http:    ac.HttpClient,
		addr:    addr,
		timeout: cmp.Or(cfg.Timeout, DefaultTimeout),
		perPage: maxPage,
		log:     log,
		said:    make(map[string]string),
	}, nil
}

// httpClient is one that checks certificates as it is told, and reads answers of
// bounded size only.
func httpClient(transport *http.Transport, config *api.TLSConfig) (*http.Client, error) {
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	hc := &http.Client{Transport: transport}
	if err := api.ConfigureTLS(hc, config); err != nil {
		return nil, err
	}
	hc.Transport = httplimit.Transport{Base: transport, Max: maxBody}
	return hc, nil
}

// Address is where the client sends its requests.
func (c *Client) Address() string { return c.addr }

// bounded gives a request its deadline.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// failed classifies an error of a request to the client's address.
func (c *Client) failed(ctx context.Context, what string, err error) error {
	return failedAt(ctx, c.addr, what, err)
}

// failedAt classifies an error of a request. ctx is the caller's: its end is the
// caller's doing, while the end of our own deadline is Nomad's.
func failedAt(ctx context.Context, addr, what string, err error) error {
	class := ErrUnreachable
	var answer api.UnexpectedResponseError
	switch {
	case ctx.Err() != nil:
		class = ctx.Err()
	case errors.As(err, &answer) && answer.HasStatusCode():
		class = classOf(answer)
	}
	if class == nil {
		return fmt.Errorf("%s in Nomad at %s: %w", what, addr, err)
	}
	return fmt.Errorf("%s in Nomad at %s: %w: %w", what, addr, class, err)
}

// classOf is the class of an answer that is no success, or nil. Nomad answers
// 500 to much that is not its own failure, so the text decides there.
func classOf(answer api.UnexpectedResponseError) error {
	body := answer.Body()
	switch {
	case answer.StatusCode() == http.StatusForbidden, strings.Contains(body, "Permission denied"):
		return ErrDenied
	case answer.StatusCode() == http.StatusNotFound, strings.Contains(body, "node not found"):
		return ErrNotFound
	case strings.Contains(body, "No cluster leader"),
		strings.Contains(body, "rpc error"),
		answer.StatusCode() == http.StatusBadGateway,
		answer.StatusCode() == http.StatusServiceUnavailable,
		answer.StatusCode() == http.StatusGatewayTimeout:
		return ErrUnreachable
	}
	return nil
}

// pages reads a whole list, page by page, each with a deadline of its own.
func pages[T any](ctx context.Context, c *Client, what string, q api.QueryOptions,
	list func(*api.QueryOptions) ([]T, *api.QueryMeta, error),
) ([]T, error) {
	var all []T
	q.PerPage = c.perPage
	for {
		page, next, err := page(ctx, c, q, list)
		if err != nil {
			return nil, c.failed(ctx, what, err)
		}
		all = append(all, page...)
		if next == "" {
			return all, nil
		}
		if len(all) >= maxList || next == q.NextToken {
			return nil, fmt.Errorf("%s in Nomad at %s: no end after %d items", what, c.addr, len(all))
		}
		q.NextToken = next
	}
}

func page[T any](ctx context.Context, c *Client, q api.QueryOptions,
	list func(*api.QueryOptions) ([]T, *api.QueryMeta, error),
) ([]T, string, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	items, meta, err := list((&q).WithContext(reqCtx))
	if err != nil {
		return nil, "", err
	}
	return items, meta.NextToken, nil
}
