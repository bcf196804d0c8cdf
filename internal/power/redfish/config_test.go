package redfish_test

import (
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/redfish"
)

const pin = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestConfig(t *testing.T) {
	powertest.RunConfig(t, powertest.ConfigRig[redfish.Config]{
		HCL: []string{`
			address      = "https://bmc-17.mgmt:8443"
			username     = "gpupool"
			password     = "gpupool-Pass1"
			auth         = "session"
			system       = "System.Embedded.1"
			fingerprint  = "` + pin + `"
			timeout      = "1m"
			min_interval = "5s"
			auth_backoff = "1h"
		`, `
			address  = "bmc-17"
			username = "gpupool"
			password = "gpupool-Pass1"
			ca_file  = "/etc/ssl/bmc.pem"
		`, `
			address              = "bmc-17"
			username             = "gpupool"
			password             = "gpupool-Pass1"
			insecure_skip_verify = true
		`},
		Secrets: []string{"gpupool-Pass1", "sesame"},
		Good:    redfish.Config{Address: "bmc-1", Username: "gpupool", Password: "gpupool-Pass1"},
		Cases: []powertest.ConfigCase[redfish.Config]{
			{Name: "no address", Change: func(c *redfish.Config) { c.Address = "" }, Want: "address: is empty"},
			{Name: "plain HTTP", Change: func(c *redfish.Config) { c.Address = "http://bmc-1" }, Want: "address: \"http://bmc-1\" is not over TLS"},
			{Name: "root path", Change: func(c *redfish.Config) { c.Address = "https://bmc-1/redfish/v1/" }},
			{Name: "system path", Change: func(c *redfish.Config) { c.Address = "https://bmc-1/redfish/v1/Systems/1" }, Want: "has a path"},
			{Name: "query", Change: func(c *redfish.Config) { c.Address = "bmc-1?x=1" }, Want: "has a path"},
			{Name: "password in the URL", Change: func(c *redfish.Config) { c.Address = "https://u:sesame@bmc-1" }, Want: "address: contains a user name"},
			{Name: "port 0", Change: func(c *redfish.Config) { c.Address = "bmc-1:0" }, Want: "no port from 1 to 65535"},
			{Name: "port 65536", Change: func(c *redfish.Config) { c.Address = "bmc-1:65536" }, Want: "no port from 1 to 65535"},
			{Name: "IPv6 in half a bracket", Change: func(c *redfish.Config) { c.Address = "[fd00::1" }, Want: "is not an address"},
			{Name: "a space", Change: func(c *redfish.Config) { c.Address = "bmc 1" }, Want: "is not an address"},
			{Name: "no username", Change: func(c *redfish.Config) { c.Username = "" }, Want: "username: is empty"},
			{Name: "colon in username", Change: func(c *redfish.Config) { c.Username = "a:b" }, Want: "username: contains a colon"},
			{Name: "no password", Change: func(c *redfish.Config) { c.Password = "" }, Want: "password: is empty"},
			{Name: "auth", Change: func(c *redfish.Config) { c.Auth = "digest" }, Want: `auth: "digest"`},
			{Name: "system of two elements", Change: func(c *redfish.Config) { c.System = "Systems/1" }, Want: "system: "},
			{Name: "system above", Change: func(c *redfish.Config) { c.System = ".." }, Want: "system: "},
			{Name: "short fingerprint", Change: func(c *redfish.Config) { c.Fingerprint = "sha256:0123" }, Want: "fingerprint: "},
			{Name: "fingerprint of another kind", Change: func(c *redfish.Config) { c.Fingerprint = "sha1" + pin[6:] }, Want: "fingerprint: "},
			{Name: "fingerprint", Change: func(c *redfish.Config) { c.Fingerprint = pin }},
			{Name: "fingerprint and CA", Change: func(c *redfish.Config) { c.Fingerprint, c.CAFile = pin, "ca.pem" }, Want: "fingerprint: is set, and so is ca_file"},
			{Name: "skip and CA", Change: func(c *redfish.Config) { c.InsecureSkipVerify, c.CAFile = true, "ca.pem" }, Want: "insecure_skip_verify: is true"},
			{Name: "timeout without unit", Change: func(c *redfish.Config) { c.Timeout = "10" }, Want: `timeout: "10" is not a duration`},
			{Name: "long timeout", Change: func(c *redfish.Config) { c.Timeout = "6m" }, Want: "timeout: 6m0s is outside of 1s to 5m"},
			{Name: "negative rest", Change: func(c *redfish.Config) { c.MinInterval = "-1s" }, Want: "min_interval: -1s is outside"},
			{Name: "no backoff", Change: func(c *redfish.Config) { c.AuthBackoff = "0s" }, Want: "auth_backoff: 0s is outside of 1m0s to 24h0m0s"},
		},
		Wrong:   redfish.Config{Auth: "x", System: "/", Fingerprint: "x", InsecureSkipVerify: true, Timeout: "x", MinInterval: "y", AuthBackoff: "z"},
		WrongIn: []string{"address", "username", "password", "auth", "system", "fingerprint", "insecure_skip_verify", "timeout", "min_interval", "auth_backoff"},
		New:     func(c redfish.Config) (power.Driver, error) { return redfish.New(c) },
	})
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
