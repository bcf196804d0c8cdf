package redfish_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/gpupool/gpupool/internal/power/redfish"
)

const pin = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestConfigFromHCL(t *testing.T) {
	file, diags := hclparse.NewParser().ParseHCL([]byte(`
		address      = "https://bmc-17.mgmt:8443"
		username     = "gpupool"
		password     = "gpupool-Pass1"
		auth         = "session"
		system       = "System.Embedded.1"
		fingerprint  = "`+pin+`"
		timeout      = "1m"
		min_interval = "5s"
		auth_backoff = "1h"
	`), "pools.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var c redfish.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &c); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	d, err := redfish.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v %v %+v %#v", c, c, c, d, d, d); strings.Contains(text, "Pass1") {
		t.Errorf("the config or the driver prints its password: %s", text)
	}
}

func TestValidate(t *testing.T) {
	good := redfish.Config{Address: "bmc-1", Username: "gpupool", Password: "gpupool-Pass1"}
	if err := good.Validate(); err != nil {
		t.Fatalf("a config of the required keys only: %v", err)
	}
	for _, c := range []struct {
		name   string
		change func(*redfish.Config)
		want   string // empty: no mistake
	}{
		{"no address", func(c *redfish.Config) { c.Address = "" }, "address: is empty"},
		{"plain HTTP", func(c *redfish.Config) { c.Address = "http://bmc-1" }, "address: \"http://bmc-1\" is not over TLS"},
		{"root path", func(c *redfish.Config) { c.Address = "https://bmc-1/redfish/v1/" }, ""},
		{"system path", func(c *redfish.Config) { c.Address = "https://bmc-1/redfish/v1/Systems/1" }, "has a path"},
		{"query", func(c *redfish.Config) { c.Address = "bmc-1?x=1" }, "has a path"},
		{"password in the URL", func(c *redfish.Config) { c.Address = "https://u:sesame@bmc-1" }, "address: contains a user name"},
		{"port 0", func(c *redfish.Config) { c.Address = "bmc-1:0" }, "no port from 1 to 65535"},
		{"port 65536", func(c *redfish.Config) { c.Address = "bmc-1:65536" }, "no port from 1 to 65535"},
		{"IPv6 in half a bracket", func(c *redfish.Config) { c.Address = "[fd00::1" }, "is not an address"},
		{"a space", func(c *redfish.Config) { c.Address = "bmc 1" }, "is not an address"},
		{"no username", func(c *redfish.Config) { c.Username = "" }, "username: is empty"},
		{"colon in username", func(c *redfish.Config) { c.Username = "a:b" }, "username: contains a colon"},
		{"no password", func(c *redfish.Config) { c.Password = "" }, "password: is empty"},
		{"auth", func(c *redfish.Config) { c.Auth = "digest" }, `auth: "digest"`},
		{"system of two elements", func(c *redfish.Config) { c.System = "Systems/1" }, "system: "},
		{"system above", func(c *redfish.Config) { c.System = ".." }, "system: "},
		{"short fingerprint", func(c *redfish.Config) { c.Fingerprint = "sha256:0123" }, "fingerprint: "},
		{"fingerprint of another kind", func(c *redfish.Config) { c.Fingerprint = "sha1" + pin[6:] }, "fingerprint: "},
		{"fingerprint", func(c *redfish.Config) { c.Fingerprint = pin }, ""},
		{"fingerprint and CA", func(c *redfish.Config) { c.Fingerprint, c.CAFile = pin, "ca.pem" }, "fingerprint: is set, and so is ca_file"},
		{"skip and CA", func(c *redfish.Config) { c.InsecureSkipVerify, c.CAFile = true, "ca.pem" }, "insecure_skip_verify: is true"},
		{"timeout without unit", func(c *redfish.Config) { c.Timeout = "10" }, `timeout: "10" is not a duration`},
		{"long timeout", func(c *redfish.Config) { c.Timeout = "6m" }, "timeout: 6m0s is outside of 1s to 5m"},
		{"negative rest", func(c *redfish.Config) { c.MinInterval = "-1s" }, "min_interval: -1s is outside"},
		{"no backoff", func(c *redfish.Config) { c.AuthBackoff = "0s" }, "auth_backoff: 0s is outside of 1m0s to 24h0m0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := good
			c.change(&config)
			err := config.Validate()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Validate: %v", err)
			case c.want != "" && !strings.Contains(fmt.Sprint(err), c.want):
				t.Errorf("Validate: %v, want %q", err, c.want)
			}
			if strings.Contains(fmt.Sprint(err), "sesame") {
				t.Errorf("Validate spills a password: %v", err)
			}
		})
	}
}

func TestValidateReportsEverything(t *testing.T) {
	c := redfish.Config{Auth: "x", System: "/", Fingerprint: "x", InsecureSkipVerify: true, Timeout: "x", MinInterval: "y", AuthBackoff: "z"}
	err := fmt.Sprint(c.Validate())
	for _, key := range []string{"address:", "username:", "password:", "auth:", "system:", "fingerprint:", "insecure_skip_verify:", "timeout:", "min_interval:", "auth_backoff:"} {
		if !strings.Contains(err, key) {
			t.Errorf("no word of %s in %s", key, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	for _, same := range [][]string{
		{"redfish:10.0.9.17:443", "10.0.9.17", "10.0.9.17:443", "https://10.0.9.17", "HTTPS://10.0.9.17/", "::ffff:10.0.9.17", "https://10.0.9.17/redfish/v1"},
		{"redfish:[fd00::17]:8443", "[fd00::17]:8443", "https://[FD00:0::17]:8443"},
		{"redfish:[fd00::17]:443", "fd00::17", "[fd00::17]"},
		{"redfish:bmc-17.mgmt:443", "bmc-17.mgmt", "BMC-17.mgmt.", "https://bmc-17.mgmt:443"},
	} {
		for _, address := range same[1:] {
			if got := (redfish.Config{Address: address}).Identity(); got != same[0] {
				t.Errorf("identity of %s is %s, want %s", address, got, same[0])
			}
		}
	}
	if got := (redfish.Config{Address: "bmc-1", System: "2"}).Identity(); got != "redfish:bmc-1:443/2" {
		t.Errorf("identity with a system is %s", got)
	}
}
