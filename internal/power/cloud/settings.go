package cloud

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Defaults of [Settings].
const (
	DefaultTimeout     = 30 * time.Second
	DefaultAuthBackoff = 5 * time.Minute
)

// Settings are the keys that the configs of all clouds have.
type Settings struct {
	// Endpoint is the URL of the API. The default is the cloud's own, and none
	// is an error where it has none. EndpointKey is what it is called if that is
	// not endpoint.
	Endpoint, DefaultEndpoint, EndpointKey string
	// Trust is ca_file, fingerprint and insecure_skip_verify.
	Trust https.Trust
	// Timeout is the longest that one call may take: 1s to 5m, default 30s.
	Timeout string
	// AuthBackoff is how long no login is tried after one was refused: 10s to
	// 24h, default 5m. Clouds do not lock accounts out as BMCs do, but a
	// refused call every second gets the account a call from its security.
	AuthBackoff string
}

// Read reads them, and notes mistakes.
func (s Settings) Read(m *Mistakes) (*url.URL, power.Limits) {
	key, text := cmp.Or(s.EndpointKey, "endpoint"), cmp.Or(s.Endpoint, s.DefaultEndpoint)
	var endpoint *url.URL
	if text == "" {
		m.Add(key, errors.New("is empty: write the URL of the API"))
	} else {
		var err error
		endpoint, err = https.ParseEndpoint(text)
		m.Add(key, err)
	}
	m.errs = append(m.errs, s.Trust.Validate()...)
	return endpoint, power.Limits{
		Timeout:     m.duration("timeout", s.Timeout, DefaultTimeout, time.Second, 5*time.Minute),
		AuthBackoff: m.duration("auth_backoff", s.AuthBackoff, DefaultAuthBackoff, 10*time.Second, 24*time.Hour),
	}
}

// Mistakes are those of one config.
type Mistakes struct{ errs []error }

// Add notes a mistake of a key, unless err is nil.
func (m *Mistakes) Add(key string, err error) {
	if err != nil {
		m.errs = append(m.errs, fmt.Errorf("%s: %w", key, err))
	}
}

// Err joins them all, nil if there are none.
func (m *Mistakes) Err() error { return errors.Join(m.errs...) }

func (m *Mistakes) duration(key, text string, def, least, most time.Duration) time.Duration {
	d, err := power.ParseDuration(text, def, least, most)
	m.Add(key, err)
	return d
}
