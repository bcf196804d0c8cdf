package notice

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gpupool/gpupool/internal/httplimit"
)

// maxAnswer bounds what a metadata service or a hook may answer, in bytes.
const maxAnswer = 64 << 10

// client asks servers that are on the machine or next to it. It follows no
// redirect and knows no proxy: notices come from nowhere else.
func client() *http.Client {
	return &http.Client{
		Transport: httplimit.Transport{Max: maxAnswer, Base: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: lookTimeout}).DialContext,
			TLSHandshakeTimeout: lookTimeout,
			MaxIdleConns:        2,
			IdleConnTimeout:     time.Minute,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch sends one request and returns the status and what was answered.
func fetch(ctx context.Context, c *http.Client, method, url string, header map[string]string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return 0, nil, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end, or given up
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("read %s: %w", url, err)
	}
	return resp.StatusCode, text, nil
}

// unexpected is the error of a status that says neither yes nor no.
func unexpected(url string, status int) error {
	return fmt.Errorf("%w: %s says %d %s", errAnswer, url, status, http.StatusText(status))
}

// decode reads JSON of a service.
func decode(url string, text []byte, into any) error {
	if err := json.Unmarshal(bytes.TrimSpace(text), into); err != nil {
		return fmt.Errorf("%w: %s: %w", errAnswer, url, err)
	}
	return nil
}

// clean bounds a text that somebody else wrote and makes it one line.
func clean(s string) string {
	const limit = 200
	out := make([]rune, 0, len(s))
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		if out = append(out, r); len(out) == limit {
			break
		}
	}
	return string(out)
}
