package ec2

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

// The values of Config.SoftOff.
const (
	softStop      = "stop"
	softHibernate = "hibernate"
)

// DefaultMetadataEndpoint is where EC2 instances reach their metadata service.
const DefaultMetadataEndpoint = "http://169.254.169.254"

// Config is one EC2 instance, as the power block of a host says it.
type Config struct {
	// InstanceID is the instance, such as "i-0123456789abcdef0".
	InstanceID string `hcl:"instance_id"`
	// Region is where it is, such as "eu-central-1".
	Region string `hcl:"region"`
	// AccessKeyID and SecretAccessKey are the credential, already resolved from
	// their references, and SessionToken what temporary ones have besides.
	// Without them it is the role of the machine that this runs on.
	AccessKeyID     power.Secret `hcl:"access_key_id,optional"`
	SecretAccessKey power.Secret `hcl:"secret_access_key,optional"`
	SessionToken    power.Secret `hcl:"session_token,optional"`
	// SoftOff is "stop", the default, or "hibernate".
	SoftOff string `hcl:"soft_off,optional"`

	// Endpoint is the URL of the API, default that of the region.
	Endpoint string `hcl:"endpoint,optional"`
	// MetadataEndpoint is where the role's credential comes from.
	MetadataEndpoint string `hcl:"metadata_endpoint,optional"`
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
	_, _, err := c.parse()
	return err
}

// Identity names the instance, so that two hosts with one can be told.
func (c Config) Identity() string { return "ec2:" + c.Region + "/" + c.InstanceID }

// settings are what instances share their API by. They are comparable.
type settings struct {
	region   string
	endpoint url.URL
	aws      bool // the endpoint is one of AWS
	metadata url.URL
	trust    https.Trust
	key      keys // empty for the machine's role
	softOff  string
	limits   power.Limits
}

// keys are a credential of AWS.
type keys struct{ id, secret, token power.Secret }

var (
	instanceRule = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
	regionRule   = regexp.MustCompile(`^[a-z]{2,8}(-[a-z]{1,12}){1,3}-[0-9]{1,2}$`)
)

func (c *Config) parse() (s settings, limits power.Limits, err error) {
	var m cloud.Mistakes
	if !instanceRule.MatchString(c.InstanceID) {
		m.Add("instance_id", fmt.Errorf(`%.40q is not the ID of an instance, such as "i-0123456789abcdef0"`, c.InstanceID))
	}
	if !regionRule.MatchString(c.Region) {
		m.Add("region", fmt.Errorf(`%.40q is not the name of a region, such as "eu-central-1"`, c.Region))
	}
	switch {
	case c.AccessKeyID == "" && c.SecretAccessKey != "":
		m.Add("access_key_id", errors.New("is not set, and secret_access_key is: set both, or neither for the role of this machine"))
	case c.AccessKeyID != "" && c.SecretAccessKey == "":
		m.Add("secret_access_key", errors.New("is not set, and access_key_id is: set both, or neither for the role of this machine"))
	case c.AccessKeyID == "" && c.SessionToken != "":
		m.Add("session_token", errors.New("is set without access_key_id and secret_access_key"))
	}
	switch c.SoftOff {
	case "", softStop, softHibernate:
	default:
		m.Add("soft_off", fmt.Errorf("%.40q is not a soft-off: set %s or %s", c.SoftOff, softStop, softHibernate))
	}
	metadata, err := https.ParseMetadata(c.MetadataEndpoint, DefaultMetadataEndpoint)
	m.Add("metadata_endpoint", err)
	s = settings{
		region: c.Region, softOff: c.SoftOff, metadata: metadata,
		trust: https.Trust{CAFile: c.CAFile, Fingerprint: c.Fingerprint, Insecure: c.InsecureSkipVerify},
		key:   keys{c.AccessKeyID, c.SecretAccessKey, c.SessionToken},
	}
	endpoint, limits := cloud.Settings{
		Endpoint: c.Endpoint, DefaultEndpoint: "https://ec2." + c.Region + "." + domain(c.Region),
		Trust: s.trust, Timeout: c.Timeout, AuthBackoff: c.AuthBackoff,
	}.Read(&m)
	if endpoint != nil {
		s.endpoint = *endpoint
		s.aws = ofAWS(endpoint.Hostname())
	}
	s.limits = limits
	return s, limits, m.Err()
}

// ofAWS says whether a host is one of AWS: "Amazon EC2 service endpoints" in its
// Developer Guide.
func ofAWS(host string) bool {
	return slices.ContainsFunc([]string{".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn"}, func(domain string) bool {
		return strings.HasSuffix(strings.ToLower(host), domain)
	})
}

// domain is that of the partition of a region.
func domain(region string) string {
	if strings.HasPrefix(region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}
