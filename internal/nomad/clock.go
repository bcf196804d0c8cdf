package nomad

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Clock reads the clock of the server at the client's address, to the second.
// It needs no token. ok is false where the address is a socket of this machine,
// whose clock is ours.
func (c *Client) Clock(ctx context.Context) (at time.Time, ok bool, err error) {
	if c.http == nil || strings.HasPrefix(c.addr, "unix://") {
		return time.Time{}, false, nil
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.addr, "/")+"/v1/status/leader", nil)
	if err != nil {
		return time.Time{}, false, fmt.Errorf("read the clock of Nomad at %s: %w", c.addr, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return time.Time{}, false, c.failed(ctx, "read the clock", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only its header was wanted
	at, err = http.ParseTime(resp.Header.Get("Date"))
	return at, err == nil, nil //nolint:nilerr // some proxies leave the header out
}
