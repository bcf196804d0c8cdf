package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Client speaks HTTP to one server for one source. It follows no redirects,
// because those would carry the credential elsewhere.
type Client struct {
	Wire Wire
	HTTP *http.Client
	auth Auth
}

// Auth is how to log in: with a user and a password, a bearer token, or a key
// in a header. References are resolved at each request.
type Auth struct {
	Username string
	Password secret.Ref
	Token    secret.Ref
	Header   string
	Key      secret.Ref
}

// DeclareAuth reads the settings of basic and bearer authentication.
func DeclareAuth(r *setting.Reader) Auth {
	a := Auth{
		Username: r.String("username", "", "User of basic authentication."),
		Password: r.Secret("password", "Its password."),
		Token:    r.Secret("bearer_token", "Token of bearer authentication."),
	}
	if a.Token != "" && a.Username != "" {
		r.Reject("bearer_token", "stands beside username, and one request has one of them", "take one out")
	}
	if (a.Username == "") != (a.Password == "") {
		r.Reject("password", "is given without username, or username without it", "give both or none")
	}
	return a
}

// AuthKEDA has KEDA's names of the keys of [DeclareAuth].
var AuthKEDA = map[string]string{"username": "username", "password": "password", "bearer_token": "bearerToken, token"}

// NewClient makes a client. It sends nothing.
func NewClient(t TLS, a Auth) (*Client, error) {
	tlsConfig, err := t.Config("")
	if err != nil {
		return nil, err
	}
	c := &Client{auth: a}
	c.HTTP = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            c.Wire.DialContext,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    30 * time.Second, // the deadline of the call comes first
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        2 * time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Authorize adds the credential to a request, and returns it.
func (c *Client) Authorize(req *http.Request) (secrets []string, err error) {
	resolve := func(ref secret.Ref) (value string) {
		if ref == "" || err != nil {
			return ""
		}
		if value, err = ref.Resolve(); err == nil {
			secrets = append(secrets, value)
		}
		return value
	}
	password, token, key := resolve(c.auth.Password), resolve(c.auth.Token), resolve(c.auth.Key)
	switch {
	case err != nil:
		return nil, queue.Fail(queue.ErrAuth, err.Error())
	case c.auth.Username != "":
		req.SetBasicAuth(c.auth.Username, password)
	case token != "":
		req.Header.Set("Authorization", "Bearer "+token)
	case key != "":
		req.Header.Set(c.auth.Header, key)
	}
	req.Header.Set("User-Agent", "gpupool")
	return secrets, nil
}

// Do sends a request and reads the whole answer. An answer that is no success
// is an error with what of its body helps, save where it is one of the
// statuses that the caller wants to see.
func (c *Client) Do(ctx context.Context, req *http.Request, want ...int) (status int, body []byte, secrets []string, err error) {
	defer c.Wire.Call(ctx)()
	if secrets, err = c.Authorize(req); err != nil {
		return 0, nil, nil, err
	}
	resp, err := c.HTTP.Do(req.WithContext(ctx))
	if err != nil {
		return 0, nil, secrets, Failed(ctx, err, secrets...)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	if body, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil, secrets, Failed(ctx, err, secrets...)
	}
	for _, w := range want {
		if resp.StatusCode == w {
			return w, body, secrets, nil
		}
	}
	if class := StatusClass(resp.StatusCode); class != nil {
		return resp.StatusCode, body, secrets, queue.Fail(class, fmt.Sprintf("HTTP %d: %.200s", resp.StatusCode, body), secrets...)
	}
	return resp.StatusCode, body, secrets, nil
}

// Failed is the error of a request that was not answered.
func Failed(ctx context.Context, err error, secrets ...string) error {
	class := Class(ctx, err)
	if class == nil {
		class = queue.ErrInvalid // it is no HTTP
	}
	return queue.Fail(class, err.Error(), secrets...)
}

// StatusClass is what a status means, nil for 200.
func StatusClass(status int) error {
	switch {
	case status == http.StatusOK:
		return nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return queue.ErrAuth
	case status == http.StatusNotFound, status == http.StatusGone:
		return queue.ErrMissing
	case status == http.StatusTooManyRequests, status >= 500:
		return queue.ErrUnreachable
	case status < 300:
		return queue.ErrInvalid
	}
	return queue.ErrRefused
}

// Close closes the connections. Calls after it fail.
func (c *Client) Close() error {
	c.Wire.Close()
	c.HTTP.CloseIdleConnections()
	return nil
}

// ErrClosed is why a source that was closed connects no more.
var ErrClosed = errors.New("the source was closed")
