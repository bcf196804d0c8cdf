package gce_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/gce"
	"github.com/gpupool/gpupool/internal/power/gce/gcetest"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

func TestConfig(t *testing.T) {
	key := gcetest.Credentials("https://oauth2.example.net")
	replaced := func(old, with string) func(*gce.Config) {
		return func(c *gce.Config) { c.Credentials = power.Secret(strings.Replace(key, old, with, 1)) }
	}
	_, private, _ := strings.Cut(key, `-----BEGIN PRIVATE KEY-----\n`)
	powertest.RunConfig(t, powertest.ConfigRig[gce.Config]{
		HCL: []string{fmt.Sprintf(`
			project           = "gpupool-test"
			zone              = "europe-west4-a"
			instance          = "gpu-07"
			credentials       = %q
			discard_local_ssd = true
			operation_wait    = "10s"
			endpoint          = "https://compute.example.net"
			ca_file           = "/etc/ssl/gce.pem"
			timeout           = "1m"
			auth_backoff      = "1m"
		`, key), `
			project           = "example.com:gpupool-test"
			zone              = "us-central1-f"
			instance          = "g"
			metadata_endpoint = "http://metadata.google.internal"
			fingerprint       = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		`, `
			project              = "gpupool-test"
			zone                 = "us-central1-f"
			instance             = "gpu-07"
			insecure_skip_verify = true
		`},
		Secrets: []string{private[:40]},
		Good:    gce.Config{Project: "gpupool-test", Zone: "europe-west4-a", Instance: "gpu-07"},
		Cases: []powertest.ConfigCase[gce.Config]{
			{Name: "a path for a project", Change: func(c *gce.Config) { c.Project = "projects/gpupool-test" }, Want: "project: "},
			{Name: "a region for a zone", Change: func(c *gce.Config) { c.Zone = "europe-west4" }, Want: `zone: "europe-west4" is not`},
			{Name: "a number for an instance", Change: func(c *gce.Config) { c.Instance = "1234567890" }, Want: "instance: "},
			{Name: "an instance that leads elsewhere", Change: func(c *gce.Config) { c.Instance = `gpu/../x` }, Want: "instance: "},
			{Name: "a key that is a path", Change: func(c *gce.Config) { c.Credentials = "/run/secrets/key.json" }, Want: "credentials: is no JSON"},
			{Name: "a key of a person", Change: replaced("service_account", "authorized_user"), Want: "credentials: is not of the type"},
			{Name: "a key without a key", Change: replaced("-----BEGIN", "-----"), Want: "in PEM form"},
			{Name: "a broken key", Change: replaced(`-----BEGIN PRIVATE KEY-----\nMI`, `-----BEGIN PRIVATE KEY-----\nMM`), Want: "private_key that cannot be read"},
			{Name: "a token endpoint without TLS", Change: replaced("https://oauth2", "http://oauth2"), Want: "token_uri that is no https URL"},
			{Name: "operation_wait", Change: func(c *gce.Config) { c.OperationWait = "3m" }, Want: "operation_wait: 3m0s is outside"},
		},
		Wrong: gce.Config{Credentials: "x", OperationWait: "x", Endpoint: "x", MetadataEndpoint: "x", Fingerprint: "x", InsecureSkipVerify: true, Timeout: "x", AuthBackoff: "x"},
		WrongIn: []string{
			"project", "zone", "instance", "credentials", "operation_wait", "endpoint", "metadata_endpoint",
			"fingerprint", "insecure_skip_verify", "timeout", "auth_backoff",
		},
		New: func(c gce.Config) (power.Driver, error) { return gce.New(c) },
	})
}
