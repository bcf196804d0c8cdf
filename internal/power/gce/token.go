package gce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	scope           = "https://www.googleapis.com/auth/compute"
	tokenPath       = "/computeMetadata/v1/instance/service-accounts/default/token"
	metadataTimeout = 3 * time.Second // it is on the machine itself
)

// fetch is how a kind of credential gets an access token.
type fetch = func(context.Context) (power.Secret, time.Time, error)

// exchange returns the fetch of a service account's key: RFC 7523, by
// golang.org/x/oauth2.
func exchange(client *http.Client, k key) fetch {
	c := jwt.Config{Email: k.email, PrivateKey: k.private, PrivateKeyID: k.id, Scopes: []string{scope}, TokenURL: k.tokenURI.String()}
	return func(ctx context.Context) (power.Secret, time.Time, error) {
		ctx, seen := https.Watch(ctx)
		bound := &http.Client{Transport: within{ctx, client.Transport}, CheckRedirect: client.CheckRedirect}
		token, err := c.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, bound)).Token()
		var refused *oauth2.RetrieveError
		switch {
		case errors.As(err, &refused):
			code, text := parseTokenFailure(refused.Body)
			return "", time.Time{}, tokenRules.Failure(cloud.Answer{Seen: seen, Code: code, Text: text})
		case ctx.Err() != nil:
			return "", time.Time{}, tokenRules.Failure(cloud.Answer{Seen: seen, Err: ctx.Err()})
		case err != nil:
			return "", time.Time{}, tokenRules.Failure(cloud.Answer{Seen: seen, Err: seen.Cause(err)})
		case token.AccessToken == "" || token.Expiry.IsZero():
			return "", time.Time{}, fmt.Errorf("%w: nothing was sent: %s answers without an access token", power.ErrUnreachable, k.tokenURI.Host)
		}
		return power.Secret(token.AccessToken), token.Expiry, nil
	}
}

// within ends requests with a context: x/oauth2 v0.36.0 sends the request of a
// JWT without the one that it was given.
type within struct {
	ctx  context.Context
	base http.RoundTripper
}

// RoundTrip sends one request.
func (w within) RoundTrip(req *http.Request) (*http.Response, error) {
	return w.base.RoundTrip(req.WithContext(w.ctx))
}

// parseTokenFailure reads an OAuth error: RFC 6749 section 5.2.
func parseTokenFailure(body []byte) (code, text string) {
	var reply struct {
		Error            string `json:"error"`
		ErrorDescription string `json:"error_description"`
	}
	_ = json.Unmarshal(body, &reply) // what is no OAuth error has no words
	return reply.Error, reply.ErrorDescription
}

// tokenRules are OAuth's error codes.
var tokenRules = cloud.Rules{
	cloud.Means(power.ErrAuth, "the key of the service account was refused: it was deleted, the account is disabled, or the clock of this machine is off",
		"invalid_grant", "invalid_client", "unauthorized_client", "access_denied", "invalid_request", "account_disabled"),
	cloud.TooOften("rate_limit_exceeded", "slow_down"),
}

// lend returns the fetch of the service account of this machine: "Authenticate
// workloads using service accounts" in Compute Engine's documentation.
func lend(client *http.Client, metadata url.URL) fetch {
	return func(ctx context.Context) (power.Secret, time.Time, error) {
		const what = "nothing was sent: the credential of this machine's service account"
		ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, metadata.String()+tokenPath, nil)
		if err != nil {
			return "", time.Time{}, fmt.Errorf("%w: %s: %w", power.ErrUnreachable, what, err)
		}
		req.Header.Set("Metadata-Flavor", "Google")
		status, body, err := https.Send(client, req)
		switch {
		case err != nil:
			return "", time.Time{}, fmt.Errorf("%w: %s: no answer of the metadata service at %s; set credentials if this is no Compute Engine instance: %w", power.ErrUnreachable, what, metadata.Host, err)
		case status == http.StatusNotFound:
			return "", time.Time{}, fmt.Errorf("%w: %s: it has none; give the machine one, or set credentials", power.ErrAuth, what)
		case status != http.StatusOK:
			return "", time.Time{}, fmt.Errorf("%w: %s: the metadata service answers HTTP %d", power.ErrUnreachable, what, status)
		}
		token, life, err := parseToken(body)
		if err != nil {
			return "", time.Time{}, fmt.Errorf("%w: %s: %w", power.ErrUnreachable, what, err)
		}
		return token, time.Now().Add(life), nil
	}
}

// parseToken reads an access token and how long it lives.
func parseToken(body []byte) (power.Secret, time.Duration, error) {
	var reply struct {
		AccessToken power.Secret `json:"access_token"`
		ExpiresIn   int32        `json:"expires_in"` // seconds
	}
	if err := json.Unmarshal(body, &reply); err != nil || reply.AccessToken == "" || reply.ExpiresIn <= 0 {
		return "", 0, errors.New("the metadata service answers without an access token")
	}
	return reply.AccessToken, time.Duration(reply.ExpiresIn) * time.Second, nil
}
