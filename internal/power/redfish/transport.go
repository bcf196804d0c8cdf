package redfish

import (
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/gpupool/gpupool/internal/httplimit"
	"github.com/gpupool/gpupool/internal/power/https"
)

const maxRedirects = 3

// newClient makes the HTTP client of one service, over a transport of its own.
func newClient(s settings, base http.RoundTripper) (*http.Client, *guard) {
	g := &guard{
		address: s.address,
		base:    httplimit.Transport{Base: base, Max: https.MaxBody},
	}
	return &http.Client{Transport: g, CheckRedirect: g.redirect}, g
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
