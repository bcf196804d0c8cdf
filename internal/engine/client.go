package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Target is one server to ask.
type Target struct {
	Profile Profile
	Address string // host:port for requests
	Metrics string // host:port for metrics; empty is Address
	// Models are those that are known to be loaded. Where there are any, the
	// server is not asked for them again.
	Models []string
	// Brief leaves counters and histograms out, which are most of what a
	// server says.
	Brief bool
	// Mute leaves out to ask the server whether it sleeps.
	Mute bool
}

// profile is the profile as far as it is asked for.
func (t Target) profile() Profile {
	p := t.Profile
	if !t.Brief {
		return p
	}
	p.From = map[Measure][]Selector{}
	for m, from := range t.Profile.From {
		if kind, _ := kindOf(m); kind == Gauge {
			p.From[m] = from
		}
	}
	return p
}

// Health is what a server says when it is asked whether it is ready.
type Health int

// The answers.
const (
	Silent  Health = iota // none within the time
	Closed                // nobody listens
	Loading               // 503, or ready without a model
	Failing               // another than 200
	Ready                 // 200, and a model where the profile has a list of them
)

func (h Health) String() string {
	return [...]string{"does not answer", "does not listen", "is not ready", "fails", "is ready"}[h]
}

// Look is what one look at a server saw.
type Look struct {
	At     time.Time
	Health Health
	Detail string   // of Health, for people
	Models []string // absent if the server does not list them
	// Asleep is whether the server sleeps, nil if it does not tell.
	Asleep *bool
	// Mute is set when a server that is ready was asked whether it sleeps and
	// has no such endpoint.
	Mute bool
	// Reading is what the server said of its load, nil if nothing could be
	// taken; Err says why.
	Reading *Reading
	Err     error
	Flaw    Flaw // of Err: FlawScrape or FlawExposition
}

// ClientConfig is how to ask. The zero value works.
type ClientConfig struct {
	Timeout time.Duration // for each request of a look; 2 s if zero
	// Allowed says whether an address may be asked; nil allows those of this
	// host.
	Allowed func(netip.Addr) bool
}

// Client asks the model servers on this host. It follows no redirect, uses no
// proxy, reads no more than it must, and connects to no address but this host's.
// It is safe for concurrent use.
type Client struct {
	http    *http.Transport // which follows no redirect
	timeout time.Duration
}

// ErrElsewhere means that an address is not of this host.
var ErrElsewhere = errors.New("is not an address of this host")

// NewClient makes a client.
func NewClient(cfg ClientConfig) *Client {
	timeout := cmp.Or(cfg.Timeout, 2*time.Second)
	allowed := cfg.Allowed
	if allowed == nil {
		allowed = new(local).is
	}
	dialer := &net.Dialer{
		Timeout: timeout,
		// After the name was resolved, so that no name leads elsewhere.
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if !allowed(at.Addr().Unmap()) {
				return fmt.Errorf("%s %w", address, ErrElsewhere)
			}
			return nil
		},
	}
	return &Client{
		timeout: timeout,
		http: &http.Transport{
			DialContext:            dialer.DialContext,
			DisableCompression:     true, // a bomb of zeros costs a server nothing
			MaxIdleConnsPerHost:    2,
			ReadBufferSize:         32 << 10,
			MaxConnsPerHost:        4,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}
}

// local knows the addresses of this host.
type local struct {
	mu    sync.Mutex
	read  time.Time
	addrs map[netip.Addr]bool
}

func (l *local) is(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > 10*time.Second {
		l.read, l.addrs = time.Now(), map[netip.Addr]bool{}
		all, _ := net.InterfaceAddrs() // without it only loopback is allowed
		for _, one := range all {
			if prefix, err := netip.ParsePrefix(one.String()); err == nil {
				l.addrs[prefix.Addr().Unmap()] = true
			}
		}
	}
	return l.addrs[a]
}

// Look asks a server whether it is ready and what its load is, in one to four
// short requests.
func (c *Client) Look(ctx context.Context, t Target) Look {
	look := Look{At: time.Now()}
	look.Health, look.Detail = c.health(ctx, t)
	if look.Health == Silent || look.Health == Closed {
		look.Err, look.Flaw = errors.New(look.Detail), FlawScrape
		return look // no use in waiting for more of the same
	}
	c.load(ctx, t, &look)
	if look.Asleep == nil && !t.Mute && t.Profile.Sleep != nil && t.Profile.Sleep.State != "" {
		asleep, mute := c.asleep(ctx, t)
		look.Asleep, look.Mute = asleep, mute && look.Health == Ready
	}
	if look.Health == Ready && t.Profile.Models != "" && (look.Asleep == nil || !*look.Asleep) {
		if len(t.Models) > 0 {
			look.Models = t.Models
		} else {
			c.models(ctx, t, &look)
		}
	}
	return look
}

// health asks whether the server is ready.
func (c *Client) health(ctx context.Context, t Target) (Health, string) {
	if t.Profile.Health == "" {
		return Ready, ""
	}
	status, err := c.get(ctx, t.Address, t.Profile.Health, nil)
	path := "GET " + t.Profile.Health
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Closed, fmt.Sprintf("nobody listens at %s", t.Address)
	case err != nil:
		return Silent, fmt.Sprintf("%s: %s", path, plain(err))
	case status == http.StatusOK:
		return Ready, path + " answers 200"
	case status == http.StatusServiceUnavailable:
		return Loading, path + " answers 503"
	}
	return Failing, fmt.Sprintf("%s answers %d", path, status)
}

// load reads the metrics.
func (c *Client) load(ctx context.Context, t Target, look *Look) {
	path, parse := t.Profile.Metrics, ParseExposition
	if path == "" {
		path, parse = t.Profile.JSON, ParseDocument
	}
	if path == "" || len(t.Profile.From) == 0 {
		return
	}
	var reading Reading
	var broken error
	status, err := c.get(ctx, cmp.Or(t.Metrics, t.Address), path, func(r io.Reader) error {
		reading, broken = parse(r, t.profile())
		return nil
	})
	switch {
	case err != nil:
		look.Err, look.Flaw = fmt.Errorf("GET %s: %s", path, plain(err)), FlawScrape
		return
	case status != http.StatusOK:
		look.Err, look.Flaw = fmt.Errorf("GET %s answers %d", path, status), FlawScrape
		return
	case broken != nil:
		look.Err, look.Flaw = fmt.Errorf("GET %s: %w", path, broken), FlawExposition
		return
	}
	look.Reading = &reading
	if awake, told := reading.Gauges[Awake]; told {
		asleep := awake == 0
		look.Asleep = &asleep
	}
	look.Models = reading.Models
}

// asleep asks whether the server sleeps. mute is whether it cannot be asked.
func (c *Client) asleep(ctx context.Context, t Target) (asleep *bool, mute bool) {
	var found []any
	status, err := c.get(ctx, t.Address, t.Profile.Sleep.State, func(r io.Reader) error {
		doc, err := decode(r)
		found = point(doc, t.Profile.Sleep.Pointer)
		return err
	})
	if status == http.StatusNotFound {
		return nil, true // started without it, commonly
	}
	if err != nil || status != http.StatusOK || len(found) != 1 {
		return nil, false
	}
	if asleep, ok := found[0].(bool); ok {
		return &asleep, false
	}
	return nil, false
}

// models asks which models are loaded. A server that lists none is not ready.
func (c *Client) models(ctx context.Context, t Target, look *Look) {
	var found []string
	status, err := c.get(ctx, t.Address, t.Profile.Models, func(r io.Reader) error {
		doc, err := decode(r)
		found = texts(doc, t.Profile.ModelNames)
		return err
	})
	path := "GET " + t.Profile.Models
	switch {
	case err != nil:
		look.Health, look.Detail = Loading, fmt.Sprintf("%s: %s", path, plain(err))
	case status != http.StatusOK:
		look.Health, look.Detail = Loading, fmt.Sprintf("%s answers %d", path, status)
	case len(found) == 0:
		look.Health, look.Detail = Loading, path+" names no model"
	default:
		look.Models = found
		look.Detail += " and " + path + " names a model"
	}
}

// Detect says which profile a server is of, by the names of its metrics.
func (c *Client) Detect(ctx context.Context, address string) (Profile, bool) {
	for _, path := range []string{"/metrics", "/prometheus/metrics"} {
		var names []string
		status, err := c.get(ctx, address, path, func(r io.Reader) (err error) {
			names, err = ParseNames(r)
			return err
		})
		if err != nil {
			return Profile{}, false
		}
		if p, known := Recognize(names); status == http.StatusOK && known {
			return p, true
		}
	}
	return Profile{}, false
}

// WarmUp sends a request that the operator configured, and expects 2xx to it
// within the context's time.
func (c *Client) WarmUp(ctx context.Context, t Target, path, body string) error {
	return c.post(ctx, t.Address, path, body)
}

// ErrCannotSleep means that the kind of server has no sleep.
var ErrCannotSleep = errors.New("this kind of model server cannot be put to sleep")

// Sleep puts a server to sleep. Its requests should have ended before.
func (c *Client) Sleep(ctx context.Context, t Target) error {
	if t.Profile.Sleep == nil {
		return fmt.Errorf("%s: %w", t.Profile.Title, ErrCannotSleep)
	}
	return c.post(ctx, t.Address, t.Profile.Sleep.Enter, t.Profile.Sleep.Body)
}

// Wake wakes a server.
func (c *Client) Wake(ctx context.Context, t Target) error {
	if t.Profile.Sleep == nil {
		return fmt.Errorf("%s: %w", t.Profile.Title, ErrCannotSleep)
	}
	return c.post(ctx, t.Address, t.Profile.Sleep.Leave, t.Profile.Sleep.Body)
}

// get sends one request and gives the body of an answer 200 to read.
func (c *Client) get(ctx context.Context, address, path string, read func(io.Reader) error) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.do(ctx, http.MethodGet, address, path, "", read)
}

func (c *Client) post(ctx context.Context, address, path, body string) error {
	status, err := c.do(ctx, http.MethodPost, address, path, body, nil)
	switch {
	case err != nil:
		return fmt.Errorf("POST %s: %s", path, plain(err))
	case status < 200 || status > 299:
		return fmt.Errorf("POST %s answers %d", path, status)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, address, path, body string, read func(io.Reader) error) (int, error) {
	at, err := url.Parse("http://" + address)
	if err != nil || at.Host != address {
		return 0, fmt.Errorf("%.100q is no address", address)
	}
	if at, err = at.Parse(path); err != nil || at.Host != address {
		return 0, fmt.Errorf("%.100q is no path", path)
	}
	req, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4, application/json;q=0.9, */*;q=0.1")
	req.Header.Set("User-Agent", "gpupool-agent")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if read != nil && resp.StatusCode == http.StatusOK {
		if err := read(resp.Body); err != nil {
			return 0, err
		}
	}
	// A connection is used again if its last answer was read to the end.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	return resp.StatusCode, nil
}

// plain is an error for people.
func plain(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}
