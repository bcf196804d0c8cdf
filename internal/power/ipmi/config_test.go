package ipmi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/gpupool/gpupool/internal/power/ipmi"
)

func decode(t *testing.T, text string) (ipmi.Config, error) {
	t.Helper()
	var c ipmi.Config
	file, diags := hclparse.NewParser().ParseHCL([]byte(text), "pools.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if diags = gohcl.DecodeBody(file.Body, nil, &c); diags.HasErrors() {
		return c, diags
	}
	return c, nil
}

func TestConfigFromHCL(t *testing.T) {
	c, err := decode(t, `
		address       = "10.0.9.17"
		username      = "gpupool"
		password      = "gpupool-Pass1"
		cipher_suite  = 3
		privilege     = "administrator"
		timeout       = "20s"
		min_interval  = "5s"
		auth_backoff  = "1h"
	`)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if *c.CipherSuite != 3 || c.Password.Reveal() != "gpupool-Pass1" {
		t.Errorf("decoded %+v", c)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "Pass1") {
		t.Errorf("the config prints its password: %s", text)
	}
	if _, err := decode(t, `address = "a"
		username = "u"
		password = "p"
		retries = 3`); err == nil || !strings.Contains(err.Error(), "retries") {
		t.Errorf("an unknown key: %v, want an error that names it", err)
	}
}

func TestValidate(t *testing.T) {
	suite := func(n int) *int { return &n }
	good := ipmi.Config{Address: "bmc-1", Username: "gpupool", Password: "gpupool-Pass1"}
	if err := good.Validate(); err != nil {
		t.Fatalf("a config of the required keys only: %v", err)
	}
	for _, c := range []struct {
		name   string
		change func(*ipmi.Config)
		want   string // empty: no mistake
	}{
		{"password of 20 bytes", func(c *ipmi.Config) { c.Password = "12345678901234567890" }, ""},
		{"password of 21 bytes", func(c *ipmi.Config) { c.Password = "123456789012345678901" }, "password: is 21 bytes long, IPMI 2.0 allows 20"},
		{"no password", func(c *ipmi.Config) { c.Password = "" }, "password: is empty"},
		{"NUL in password", func(c *ipmi.Config) { c.Password = "abc\x00def" }, "password: contains a NUL"},
		{"no username", func(c *ipmi.Config) { c.Username = "" }, "username: is empty"},
		{"long username", func(c *ipmi.Config) { c.Username = "seventeen-letters" }, "username: is 17 bytes long"},
		{"suite 17", func(c *ipmi.Config) { c.CipherSuite = suite(17) }, ""},
		{"suite 3", func(c *ipmi.Config) { c.CipherSuite = suite(3) }, ""},
		{"suite 0", func(c *ipmi.Config) { c.CipherSuite = suite(0) }, "cipher_suite: 0 is refused: it does not authenticate"},
		{"suite 8", func(c *ipmi.Config) { c.CipherSuite = suite(8) }, "cipher_suite: 8 is not supported"},
		{"user privilege", func(c *ipmi.Config) { c.Privilege = "user" }, `privilege: "user" is not a level`},
		{"timeout without unit", func(c *ipmi.Config) { c.Timeout = "10" }, `timeout: "10" is not a duration`},
		{"timeout past the keep-alive", func(c *ipmi.Config) { c.Timeout = "30s" }, "timeout: 30s is outside of 1s to 25s"},
		{"no rest", func(c *ipmi.Config) { c.MinInterval = "0s" }, ""},
		{"negative rest", func(c *ipmi.Config) { c.MinInterval = "-1s" }, "min_interval: -1s is outside"},
		{"no backoff", func(c *ipmi.Config) { c.AuthBackoff = "0s" }, "auth_backoff: 0s is outside of 1m0s to 24h0m0s"},
		{"no address", func(c *ipmi.Config) { c.Address = "" }, "address: is empty"},
		{"URL", func(c *ipmi.Config) { c.Address = "https://bmc-1" }, `address: "https://bmc-1"`},
		{"path", func(c *ipmi.Config) { c.Address = "bmc-1/power" }, "is not an address"},
		{"port 0", func(c *ipmi.Config) { c.Address = "bmc-1:0" }, "no port from 1 to 65535"},
		{"port 65536", func(c *ipmi.Config) { c.Address = "bmc-1:65536" }, "no port from 1 to 65535"},
		{"IPv6 in half a bracket", func(c *ipmi.Config) { c.Address = "[fd00::1" }, "is not an address"},
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
			if _, newErr := ipmi.New(config); (newErr == nil) != (err == nil) {
				t.Errorf("New: %v, Validate: %v", newErr, err)
			}
		})
	}
}

func TestValidateReportsEverything(t *testing.T) {
	zero := 0
	c := ipmi.Config{CipherSuite: &zero, Privilege: "root", Timeout: "x", MinInterval: "y", AuthBackoff: "z"}
	err := fmt.Sprint(c.Validate())
	for _, key := range []string{"address:", "username:", "password:", "cipher_suite:", "privilege:", "timeout:", "min_interval:", "auth_backoff:"} {
		if !strings.Contains(err, key) {
			t.Errorf("no word of %s in %s", key, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	for _, same := range [][]string{
		{"ipmi:10.0.9.17:623", "10.0.9.17", "10.0.9.17:623", "::ffff:10.0.9.17", "[::ffff:10.0.9.17]:623"},
		{"ipmi:10.0.9.17:6230", "10.0.9.17:6230"},
		{"ipmi:[fd00::17]:623", "fd00::17", "fd00:0:0::17", "[fd00::17]:623", "[FD00::17]:623"},
		{"ipmi:[fe80::1%eth0]:623", "fe80::1%eth0", "[fe80::1%eth0]:623"},
		{"ipmi:bmc-17.mgmt:623", "bmc-17.mgmt", "BMC-17.mgmt.", "bmc-17.mgmt:623"},
	} {
		for _, address := range same[1:] {
			c := ipmi.Config{Address: address}
			if got := c.Identity(); got != same[0] {
				t.Errorf("identity of %s is %s, want %s", address, got, same[0])
			}
		}
	}
}
