package gce

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Defaults of [Config].
const (
	DefaultEndpoint         = "https://compute.googleapis.com"
	DefaultMetadataEndpoint = "http://169.254.169.254"
	DefaultOperationWait    = 4 * time.Second
)

// Config is one instance of Google Compute Engine, as the power block of a host
// says it.
type Config struct {
	// Project, Zone and Instance name the instance: "ml-prod", "europe-west4-a"
	// and "gpu-07".
	Project  string `hcl:"project"`
	Zone     string `hcl:"zone"`
	Instance string `hcl:"instance"`
	// Credentials is the JSON key of a service account, already resolved from
	// its reference. Without it it is the service account of the machine that
	// this runs on.
	Credentials power.Secret `hcl:"credentials,optional"`
	// DiscardLocalSSD says what becomes of local SSDs when an instance that has
	// them is stopped. Such an instance cannot be stopped without it.
	DiscardLocalSSD *bool `hcl:"discard_local_ssd,optional"`
	// OperationWait is how long an accepted change is watched for failing, as
	// one does for which there is no capacity: 0s to 2m, default 4s.
	OperationWait string `hcl:"operation_wait,optional"`

	// Endpoint is the URL of the API.
	Endpoint string `hcl:"endpoint,optional"`
	// MetadataEndpoint is where the machine's own credential comes from.
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
	_, err := c.parse()
	return err
}

// Identity names the instance, so that two hosts with one can be told.
func (c Config) Identity() string { return "gce:" + c.Project + "/" + c.Zone + "/" + c.Instance }

// settings are what instances share their API by. They are comparable.
type settings struct {
	project, zone string
	credentials   power.Secret // empty for the machine's own
	discard       string       // value of discardLocalSsd, empty for none
	wait          time.Duration
	endpoint      url.URL
	metadata      url.URL
	trust         https.Trust
	limits        power.Limits
}

// What names may be: "Naming resources" in Compute Engine's documentation. A
// project may have the prefix of a domain.
var (
	projectRule  = regexp.MustCompile(`^([a-z0-9.-]{1,63}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)
	zoneRule     = regexp.MustCompile(`^[a-z]+-[a-z]+[0-9]{1,2}-[a-z]$`)
	instanceRule = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

func (c *Config) parse() (settings, error) {
	var m cloud.Mistakes
	for _, n := range []struct {
		key, value, such string
		rule             *regexp.Regexp
	}{
		{"project", c.Project, "ml-prod", projectRule},
		{"zone", c.Zone, "europe-west4-a", zoneRule},
		{"instance", c.Instance, "gpu-07", instanceRule},
	} {
		if !n.rule.MatchString(n.value) {
			m.Add(n.key, fmt.Errorf("%.80q is not the name of one, such as %q", n.value, n.such))
		}
	}
	if c.Credentials != "" {
		_, err := parseKey(c.Credentials)
		m.Add("credentials", err)
	}
	metadata, err := https.ParseMetadata(c.MetadataEndpoint, DefaultMetadataEndpoint)
	m.Add("metadata_endpoint", err)
	wait, err := power.ParseDuration(c.OperationWait, DefaultOperationWait, 0, 2*time.Minute)
	m.Add("operation_wait", err)
	s := settings{
		project: c.Project, zone: c.Zone, credentials: c.Credentials, wait: wait, metadata: metadata,
		trust: https.Trust{CAFile: c.CAFile, Fingerprint: c.Fingerprint, Insecure: c.InsecureSkipVerify},
	}
	if c.DiscardLocalSSD != nil {
		s.discard = strconv.FormatBool(*c.DiscardLocalSSD)
	}
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

// key is the key of a service account.
type key struct {
	email, id string
	private   []byte // PEM
	tokenURI  *url.URL
}

// parseKey reads a JSON key as the cloud console gives it. The error has
// nothing of it.
func parseKey(text power.Secret) (key, error) {
	var k struct {
		Type         string `json:"type"`
		ClientEmail  string `json:"client_email"`
		PrivateKeyID string `json:"private_key_id"`
		PrivateKey   string `json:"private_key"`
		TokenURI     string `json:"token_uri"`
	}
	const mend = "refer to the file of a service account's key, as \"gcloud iam service-accounts keys create\" writes it"
	if err := json.Unmarshal([]byte(text.Reveal()), &k); err != nil {
		return key{}, errors.New("is no JSON: " + mend)
	}
	if k.Type != "service_account" {
		return key{}, errors.New(`is not of the type "service_account": ` + mend)
	}
	block, _ := pem.Decode([]byte(k.PrivateKey))
	if block == nil || k.ClientEmail == "" {
		return key{}, errors.New("has no client_email, or no private_key in PEM form: " + mend)
	}
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if _, err := x509.ParsePKCS1PrivateKey(block.Bytes); err != nil {
			return key{}, errors.New("has a private_key that cannot be read: " + mend)
		}
	}
	token, err := https.ParseEndpoint(k.TokenURI)
	if err != nil {
		return key{}, errors.New("has a token_uri that is no https URL: " + mend)
	}
	return key{k.ClientEmail, k.PrivateKeyID, []byte(k.PrivateKey), token}, nil
}
