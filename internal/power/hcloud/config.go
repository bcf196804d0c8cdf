package hcloud

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Defaults of [Config].
const (
	DefaultEndpoint   = "https://api.hetzner.cloud/v1"
	DefaultActionWait = 4 * time.Second
)

// Config is one server of Hetzner Cloud, as the power block of a host says it.
type Config struct {
	// Server is the number of the server, as the console's address shows it.
	Server int64 `hcl:"server"`
	// Token is an API token of its project that may read and write, already
	// resolved from its reference.
	Token power.Secret `hcl:"token"`
	// ActionWait is how long an accepted change is watched for failing: 0s to
	// 2m, default 4s.
	ActionWait string `hcl:"action_wait,optional"`

	// Endpoint is the URL of the API.
	Endpoint string `hcl:"endpoint,optional"`
	// CAFile, Fingerprint and InsecureSkipVerify say whose certificate is good:
	// see [https.Trust].
	CAFile             string `hcl:"ca_file,optional"`
	Fingerprint        string `hcl:"fingerprint,optional"`
	InsecureSkipVerify bool   `hcl:"insecure_skip_verify,optional"`
	// Timeout and AuthBackoff are as in [cloud.Settings].
	Timeout     string `hcl:"timeout,optional"`
	AuthBackoff string `hcl:"auth_backoff,optional"`
}

// Validate reports every mistake of the config in one error, each with its
// key and its mend. It does no I/O.
func (c *Config) Validate() error {
	_, err := c.parse()
	return err
}

// Identity names the server, so that two hosts with one can be told.
func (c Config) Identity() string { return "hcloud:" + strconv.FormatInt(c.Server, 10) }

// settings are what servers share their API by. They are comparable.
type settings struct {
	token    power.Secret
	wait     time.Duration
	endpoint url.URL
	trust    https.Trust
	limits   power.Limits
}

func (c *Config) parse() (settings, error) {
	var m cloud.Mistakes
	if c.Server <= 0 {
		m.Add("server", fmt.Errorf("%d is not the number of a server: write the one in the address of its page in the console", c.Server))
	}
	switch {
	case c.Token == "":
		m.Add("token", errors.New("is empty: make an API token of the project with the permission to read and write"))
	case strings.ContainsFunc(c.Token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }):
		m.Add("token", errors.New("has a space or a letter that tokens do not have: is it complete, and nothing else?"))
	}
	wait, err := power.ParseDuration(c.ActionWait, DefaultActionWait, 0, 2*time.Minute)
	m.Add("action_wait", err)
	s := settings{token: c.Token, wait: wait, trust: https.Trust{CAFile: c.CAFile, Fingerprint: c.Fingerprint, Insecure: c.InsecureSkipVerify}}
	endpoint, limits := cloud.Settings{
		Endpoint: c.Endpoint, DefaultEndpoint: DefaultEndpoint,
		Trust: s.trust, Timeout: c.Timeout, AuthBackoff: c.AuthBackoff,
	}.Read(&m)
	if endpoint != nil {
		s.endpoint = *endpoint
	}
	s.limits = limits
	return s, m.Err()
}
