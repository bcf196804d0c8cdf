package https

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/gpupool/gpupool/internal/httplimit"
)

// ParseEndpoint reads the URL of an API, which is always over TLS. It has no
// user, query or fragment, and no closing slash.
func ParseEndpoint(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, fmt.Errorf("%.100q is not a URL such as https://api.example.net", text)
	case u.User != nil:
		return nil, errors.New("contains a user name: credentials have keys of their own")
	case u.Scheme != "https":
		return nil, fmt.Errorf("%.100q is not over TLS, so that anyone on the way could read the credential: write https", text)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%.100q has a query or a fragment: leave it out", text)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

// ParseMetadata reads the URL of a cloud's metadata service, def if text is
// empty. It is on the machine itself and speaks no TLS.
func ParseMetadata(text, def string) (url.URL, error) {
	if text == "" {
		text = def
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return url.URL{}, fmt.Errorf("%.100q is not a URL such as %q", text, def)
	}
	u.Path = ""
	return *u, nil
}

// Client returns a client of API endpoints: it reads at most [MaxBody] of a
// reply, notes what came of requests for [Watch], follows no redirect, and
// sends nothing to hosts that are not among those of the URLs given. Without
// any, it sends to all, over TLS. It reads the CA file.
func (t Trust) Client(connections int, to ...*url.URL) (*http.Client, error) {
	base, err := t.Transport(connections)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     Noting{Base: httplimit.Transport{Base: base, Max: MaxBody}, Allow: allow(to)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// errElsewhere refuses to take a credential somewhere else.
var errElsewhere = errors.New("it leads to another host, which does not get the credential")

func allow(to []*url.URL) func(*http.Request) error {
	return func(r *http.Request) error {
		if len(to) == 0 && r.URL.Scheme == "https" {
			return nil
		}
		for _, u := range to {
			if r.URL.Scheme == u.Scheme && strings.EqualFold(r.URL.Host, u.Host) {
				return nil
			}
		}
		return errElsewhere
	}
}

// Send sends a request and reads the reply.
func Send(c *http.Client, req *http.Request) (status int, body []byte, err error) {
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, bare(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, nil, fmt.Errorf("read the reply: %w", err)
	}
	return resp.StatusCode, body, nil
}

// bare takes the URL off an error of net/http, since who reads it knows it.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
