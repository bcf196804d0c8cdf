package https

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/gpupool/gpupool/internal/power"
)

// Exchange is what came of the last request of those that were made with one
// context: see [Watch]. Errors of the libraries between do not always say it.
type Exchange struct {
	last  atomic.Pointer[outcome]
	outer *Exchange // of the context that this one's was made of, which sees them too
}

type outcome struct {
	written atomic.Bool // a connection was there to write it to, so that it may have arrived
	status  int
	header  http.Header
	err     error
	peer    Peer
}

// Peer is who answered a request.
type Peer struct {
	TLS             *tls.ConnectionState // nil without TLS
	Date            time.Time            // of its clock, to the second; zero if it did not say
	Asked, Answered time.Time            // when, by our clock
}

type exchangeKey struct{}

// Watch returns a context whose requests through [Noting] are noted.
func Watch(ctx context.Context) (context.Context, *Exchange) {
	outer, _ := ctx.Value(exchangeKey{}).(*Exchange)
	x := &Exchange{outer: outer}
	return context.WithValue(ctx, exchangeKey{}, x), x
}

func (x *Exchange) note(o *outcome) {
	for ; x != nil; x = x.outer {
		x.last.Store(o)
	}
}

// Peer is who answered the last request, zero if nobody did.
func (x *Exchange) Peer() Peer {
	if o := x.last.Load(); o != nil {
		return o.peer
	}
	return Peer{}
}

// Forget makes [Exchange.Seen] say that nothing was sent, until something is.
func (x *Exchange) Forget() { x.last.Store(nil) }

// Seen is what came of the last request: whether it may have arrived, and the
// status, 0 for no answer, and header of the answer.
func (x *Exchange) Seen() (written bool, status int, header http.Header) {
	o := x.last.Load()
	if o == nil {
		return false, 0, nil
	}
	return o.written.Load(), o.status, o.header
}

// Cause is what the last request failed with below the library that made err of
// it, and err if it did not.
func (x *Exchange) Cause(err error) error {
	if o := x.last.Load(); o != nil && o.err != nil {
		return o.err
	}
	return err
}

// Noting notes what comes of requests for [Watch], adds the name of this
// program, and refuses to send anything to a URL that Allow does not allow.
type Noting struct {
	Base http.RoundTripper
	// Allow returns why a request may not be sent, nil if it may.
	Allow func(*http.Request) error
}

// RoundTrip sends one request.
func (n Noting) RoundTrip(req *http.Request) (*http.Response, error) {
	o := new(outcome)
	if x, ok := req.Context().Value(exchangeKey{}).(*Exchange); ok {
		x.note(o)
	}
	if n.Allow != nil {
		if o.err = n.Allow(req); o.err != nil {
			return nil, o.err
		}
	}
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { o.written.Store(true) },
	})
	req = req.Clone(ctx)
	req.Header.Set("User-Agent", "gpupool")
	asked := time.Now()
	resp, err := n.Base.RoundTrip(req)
	if err != nil {
		o.err = err
		return nil, err
	}
	o.status, o.header = resp.StatusCode, resp.Header
	date, _ := http.ParseTime(resp.Header.Get("Date")) // zero is that it does not say
	o.peer = Peer{TLS: resp.TLS, Date: date, Asked: asked, Answered: time.Now()}
	return resp, nil
}

// CloseIdleConnections lets http.Client reach Base's idle connections.
func (n Noting) CloseIdleConnections() {
	if c, ok := n.Base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RetryAfter reads that header: RFC 9110 section 10.2.3. It is def where the
// service does not say how long, and never more than most.
func RetryAfter(h http.Header, now time.Time, def, most time.Duration) time.Duration {
	rest, text := def, h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		rest = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		rest = at.Sub(now)
	}
	return min(max(rest, 0), most)
}

// End is the end of a call in an error, nil if that is not in it.
func End(err error) error {
	for _, end := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, end) {
			return end
		}
	}
	return nil
}

// Brief cuts a text that a service had a hand in to a line of a log, printable
// and without secrets in any form that JSON gives them.
func Brief(text string, secrets ...power.Secret) string {
	const most = 400 // bytes
	for _, s := range secrets {
		if clear := s.Reveal(); clear != "" {
			quoted, _ := json.Marshal(clear)
			text = strings.NewReplacer(string(quoted[1:len(quoted)-1]), s.String(), clear, s.String()).Replace(text)
		}
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
