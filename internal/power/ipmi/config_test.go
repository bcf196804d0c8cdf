package ipmi_test

import (
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ipmi"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

func TestConfig(t *testing.T) {
	suite := func(n int) *int { return &n }
	zero := 0
	powertest.RunConfig(t, powertest.ConfigRig[ipmi.Config]{
		HCL: []string{`
			address       = "10.0.9.17"
			username      = "gpupool"
			password      = "gpupool-Pass1"
			cipher_suite  = 3
			privilege     = "administrator"
			timeout       = "20s"
			min_interval  = "5s"
			auth_backoff  = "1h"
		`},
		Secrets: []string{"gpupool-Pass1"},
		Good:    ipmi.Config{Address: "bmc-1", Username: "gpupool", Password: "gpupool-Pass1"},
		Cases: []powertest.ConfigCase[ipmi.Config]{
			{Name: "password of 20 bytes", Change: func(c *ipmi.Config) { c.Password = "12345678901234567890" }},
			{Name: "password of 21 bytes", Change: func(c *ipmi.Config) { c.Password = "123456789012345678901" }, Want: "password: is 21 bytes long, IPMI 2.0 allows 20"},
			{Name: "no password", Change: func(c *ipmi.Config) { c.Password = "" }, Want: "password: is empty"},
			{Name: "NUL in password", Change: func(c *ipmi.Config) { c.Password = "abc\x00def" }, Want: "password: contains a NUL"},
			{Name: "no username", Change: func(c *ipmi.Config) { c.Username = "" }, Want: "username: is empty"},
			{Name: "long username", Change: func(c *ipmi.Config) { c.Username = "seventeen-letters" }, Want: "username: is 17 bytes long"},
			{Name: "suite 17", Change: func(c *ipmi.Config) { c.CipherSuite = suite(17) }},
			{Name: "suite 3", Change: func(c *ipmi.Config) { c.CipherSuite = suite(3) }},
			{Name: "suite 0", Change: func(c *ipmi.Config) { c.CipherSuite = suite(0) }, Want: "cipher_suite: 0 is refused: it does not authenticate"},
			{Name: "suite 8", Change: func(c *ipmi.Config) { c.CipherSuite = suite(8) }, Want: "cipher_suite: 8 is not supported"},
			{Name: "user privilege", Change: func(c *ipmi.Config) { c.Privilege = "user" }, Want: `privilege: "user" is not a level`},
			{Name: "timeout without unit", Change: func(c *ipmi.Config) { c.Timeout = "10" }, Want: `timeout: "10" is not a duration`},
			{Name: "timeout past the keep-alive", Change: func(c *ipmi.Config) { c.Timeout = "30s" }, Want: "timeout: 30s is outside of 1s to 25s"},
			{Name: "no rest", Change: func(c *ipmi.Config) { c.MinInterval = "0s" }},
			{Name: "negative rest", Change: func(c *ipmi.Config) { c.MinInterval = "-1s" }, Want: "min_interval: -1s is outside"},
			{Name: "no backoff", Change: func(c *ipmi.Config) { c.AuthBackoff = "0s" }, Want: "auth_backoff: 0s is outside of 1m0s to 24h0m0s"},
			{Name: "no address", Change: func(c *ipmi.Config) { c.Address = "" }, Want: "address: is empty"},
			{Name: "URL", Change: func(c *ipmi.Config) { c.Address = "https://bmc-1" }, Want: `address: "https://bmc-1"`},
			{Name: "path", Change: func(c *ipmi.Config) { c.Address = "bmc-1/power" }, Want: "is not an address"},
			{Name: "port 0", Change: func(c *ipmi.Config) { c.Address = "bmc-1:0" }, Want: "no port from 1 to 65535"},
			{Name: "port 65536", Change: func(c *ipmi.Config) { c.Address = "bmc-1:65536" }, Want: "no port from 1 to 65535"},
			{Name: "IPv6 in half a bracket", Change: func(c *ipmi.Config) { c.Address = "[fd00::1" }, Want: "is not an address"},
		},
		Wrong:   ipmi.Config{CipherSuite: &zero, Privilege: "root", Timeout: "x", MinInterval: "y", AuthBackoff: "z"},
		WrongIn: []string{"address", "username", "password", "cipher_suite", "privilege", "timeout", "min_interval", "auth_backoff"},
		New:     func(c ipmi.Config) (power.Driver, error) { return ipmi.New(c) },
	})
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
