package openstack

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

// DefaultStartWait is the default of Config.StartWait.
const DefaultStartWait = 4 * time.Second

// The values of Config.SoftOff.
const (
	softStop   = "stop"
	softShelve = "shelve"
)

// Config is one server of OpenStack Nova, as the power block of a host says it.
type Config struct {
	// AuthURL is where Keystone is, such as "https://keystone.example.net:5000/v3".
	AuthURL string `hcl:"auth_url"`
	// ServerID is the UUID of the server.
	ServerID string `hcl:"server_id"`
	// ApplicationCredentialID and ApplicationCredentialSecret are the
	// credential, the secret already resolved from its reference.
	ApplicationCredentialID     string       `hcl:"application_credential_id"`
	ApplicationCredentialSecret power.Secret `hcl:"application_credential_secret"`
	// Region is that of the server; it may be left out if there is one.
	Region string `hcl:"region,optional"`
	// Interface is which of Nova's URLs in the catalog is used: "public", the
	// default, "internal" or "admin".
	Interface string `hcl:"interface,optional"`
	// SoftOff is "stop", the default, which keeps the server's place on its
	// hypervisor, or "shelve", which gives it back.
	SoftOff string `hcl:"soft_off,optional"`
	// StartWait is how long an accepted start is watched for failing, as one
	// does for which no hypervisor has room: 0s to 2m, default 4s.
	StartWait string `hcl:"start_wait,optional"`

	// CAFile, Fingerprint and InsecureSkipVerify say whose certificate is good:
	// see [https.Trust]. They hold for Keystone and Nova.
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

// Identity names the server, so that two hosts with one can be told. UUIDs are
// of one server only, in whatever cloud.
func (c Config) Identity() string { return "openstack:" + strings.ToLower(c.ServerID) }

// settings are what servers share their API by. They are comparable.
type settings struct {
	authURL   url.URL // without the version
	id        string
	secret    power.Secret
	region    string
	face      string // of the catalog
	softOff   string
	startWait time.Duration
	trust     https.Trust
	limits    power.Limits
}

var (
	uuidRule = regexp.MustCompile(`^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	hexRule  = regexp.MustCompile(`^(?i)[0-9a-f]{32}$`)
)

func (c *Config) parse() (settings, error) {
	var m cloud.Mistakes
	if !uuidRule.MatchString(c.ServerID) {
		m.Add("server_id", fmt.Errorf("%.60q is not the UUID of a server, as \"openstack server list\" shows it", c.ServerID))
	}
	if !uuidRule.MatchString(c.ApplicationCredentialID) && !hexRule.MatchString(c.ApplicationCredentialID) {
		m.Add("application_credential_id", errors.New("is not the ID of one, as \"openstack application credential create\" shows it"))
	}
	if c.ApplicationCredentialSecret == "" {
		m.Add("application_credential_secret", errors.New("is empty: refer to the secret that \"openstack application credential create\" shows once"))
	}
	switch c.Interface {
	case "", "public", "internal", "admin":
	default:
		m.Add("interface", fmt.Errorf("%.40q is none: set public, internal or admin", c.Interface))
	}
	switch c.SoftOff {
	case "", softStop, softShelve:
	default:
		m.Add("soft_off", fmt.Errorf("%.40q is not a soft-off: set %s or %s", c.SoftOff, softStop, softShelve))
	}
	wait, err := power.ParseDuration(c.StartWait, DefaultStartWait, 0, 2*time.Minute)
	m.Add("start_wait", err)
	s := settings{
		id: c.ApplicationCredentialID, secret: c.ApplicationCredentialSecret, region: c.Region, face: c.Interface,
		softOff: c.SoftOff, startWait: wait, trust: https.Trust{CAFile: c.CAFile, Fingerprint: c.Fingerprint, Insecure: c.InsecureSkipVerify},
	}
	endpoint, limits := cloud.Settings{
		Endpoint: c.AuthURL, EndpointKey: "auth_url", Trust: s.trust, Timeout: c.Timeout, AuthBackoff: c.AuthBackoff,
	}.Read(&m)
	if endpoint != nil {
		s.authURL = *endpoint
		s.authURL.Path = strings.TrimSuffix(s.authURL.Path, "/v3")
	}
	s.limits = limits
	return s, m.Err()
}
