package consul

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// Clock reads the clock of the agent or server at the client's address, to the
// second. It needs no token. ok is false where the address is a socket of this
// machine, whose clock is ours.
func (c *Client) Clock(ctx context.Context) (at time.Time, ok bool, err error) {
	if strings.HasPrefix(c.addr, "unix://") {
		return time.Time{}, false, nil
	}
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	var date string
	opts := (&api.QueryOptions{}).WithContext(context.WithValue(reqCtx, dateKey{}, &date))
	if _, err := c.api.Status().LeaderWithQueryOptions(opts); err != nil {
		return time.Time{}, false, c.failed(ctx, "read", "the clock", err)
	}
	at, err = http.ParseTime(date)
	return at, err == nil, nil //nolint:nilerr // some proxies leave the header out
}

// dateKey is the key of a context whose request notes the Date of its answer,
// which Consul's client does not show.
type dateKey struct{}

type dated struct{ base http.RoundTripper }

// RoundTrip sends one request.
func (d dated) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.base.RoundTrip(req)
	if date, ok := req.Context().Value(dateKey{}).(*string); ok && err == nil {
		*date = resp.Header.Get("Date")
	}
	return resp, err
}

// CloseIdleConnections lets http.Client reach the base's idle connections.
func (d dated) CloseIdleConnections() {
	if c, ok := d.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
