package ec2_test

import (
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ec2"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

func TestConfig(t *testing.T) {
	powertest.RunConfig(t, powertest.ConfigRig[ec2.Config]{
		HCL: []string{`
			instance_id       = "i-0123456789abcdef0"
			region            = "eu-central-1"
			access_key_id     = "AKIAGPUPOOLTEST00000"
			secret_access_key = "secret-Pass1"
			session_token     = "token-Pass2"
			soft_off          = "hibernate"
			endpoint          = "https://ec2.example.net:8443/aws/"
			ca_file           = "/etc/ssl/ec2.pem"
			timeout           = "1m"
			auth_backoff      = "1m"
		`, `
			instance_id       = "i-01234567"
			region            = "us-gov-west-1"
			metadata_endpoint = "http://[fd00:ec2::254]"
			fingerprint       = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		`, `
			instance_id          = "i-01234567"
			region               = "cn-north-1"
			insecure_skip_verify = true
		`},
		Secrets: []string{"AKIAGPUPOOLTEST00000", "secret-Pass1", "token-Pass2", "sesame"},
		Good:    ec2.Config{InstanceID: "i-0123456789abcdef0", Region: "eu-central-1"},
		Cases: []powertest.ConfigCase[ec2.Config]{
			{Name: "a name for an ID", Change: func(c *ec2.Config) { c.InstanceID = "gpu-07" }, Want: `instance_id: "gpu-07" is not the ID`},
			{Name: "an ID of 16 digits", Change: func(c *ec2.Config) { c.InstanceID = "i-0123456789abcdef" }, Want: "instance_id: "},
			{Name: "a zone for a region", Change: func(c *ec2.Config) { c.Region = "eu-central-1a" }, Want: "region: "},
			{Name: "a region that leads elsewhere", Change: func(c *ec2.Config) { c.Region = "evil.example/x-1" }, Want: "region: "},
			{Name: "half a key", Change: func(c *ec2.Config) { c.AccessKeyID = "sesame" }, Want: "secret_access_key: is not set"},
			{Name: "the other half", Change: func(c *ec2.Config) { c.SecretAccessKey = "sesame" }, Want: "access_key_id: is not set"},
			{Name: "a token alone", Change: func(c *ec2.Config) { c.SessionToken = "sesame" }, Want: "session_token: is set without"},
			{Name: "soft_off", Change: func(c *ec2.Config) { c.SoftOff = "terminate" }, Want: `soft_off: "terminate" is not`},
			{Name: "plain HTTP", Change: func(c *ec2.Config) { c.Endpoint = "http://ec2.example.net" }, Want: "endpoint: \"http://ec2.example.net\" is not over TLS"},
			{Name: "password in the URL", Change: func(c *ec2.Config) { c.Endpoint = "https://u:sesame@ec2.example.net" }, Want: "endpoint: contains a user name"},
			{Name: "query", Change: func(c *ec2.Config) { c.Endpoint = "https://ec2.example.net?a=b" }, Want: "endpoint: "},
			{Name: "metadata without scheme", Change: func(c *ec2.Config) { c.MetadataEndpoint = "169.254.169.254" }, Want: "metadata_endpoint: "},
			{Name: "short backoff", Change: func(c *ec2.Config) { c.AuthBackoff = "1s" }, Want: "auth_backoff: 1s is outside of 10s to 24h0m0s"},
		},
		Wrong: ec2.Config{SoftOff: "x", Endpoint: "x", MetadataEndpoint: "x", SessionToken: "x", Fingerprint: "x", InsecureSkipVerify: true, Timeout: "x", AuthBackoff: "x"},
		WrongIn: []string{
			"instance_id", "region", "session_token", "soft_off", "endpoint", "metadata_endpoint",
			"fingerprint", "insecure_skip_verify", "timeout", "auth_backoff",
		},
		New: func(c ec2.Config) (power.Driver, error) { return ec2.New(c) },
	})
}
