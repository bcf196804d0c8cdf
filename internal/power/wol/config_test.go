package wol_test

import (
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/wol"
)

func TestConfig(t *testing.T) {
	powertest.RunConfig(t, powertest.ConfigRig[wol.Config]{
		HCL: []string{`
			mac               = "0C-42-A1-00-07-01"
			secureon_password = "10:32:54:76:98:ba"
			interface         = "eth1"
			host              = "gpu-07"
			address           = "10.0.9.17"
			username          = "gpupool"
			password          = "gpupool-Pass1"
			state             = ["/bin/echo", "on"]
			off_soft          = ["/bin/true", "{host}"]
			off_hard          = ["/bin/true", "{address}"]
			timeout           = "1m"
			min_interval      = "1s"
			auth_backoff      = "1h"
		`, `
			mac       = "0C-42-A1-00-07-01"
			broadcast = "10.0.9.255"
			host      = "gpu-07"
			state     = ["/bin/echo", "on"]
			off_soft  = ["/bin/true", "{host}"]
		`},
		Secrets: []string{"54:76", "gpupool-Pass1", "10.20.30.40"},
		Good:    wol.Config{MAC: mac, Host: "gpu-07", State: []string{"echo", "on"}, OffSoft: []string{"/bin/true"}},
		Cases: []powertest.ConfigCase[wol.Config]{
			{Name: "no MAC", Change: func(c *wol.Config) { c.MAC = "" }, Want: "mac: is empty"},
			{Name: "MAC of five bytes", Change: func(c *wol.Config) { c.MAC = "0c:42:a1:00:07" }, Want: "mac: "},
			{Name: "MAC of eight bytes", Change: func(c *wol.Config) { c.MAC = "02:00:5e:10:00:00:00:01" }, Want: "mac: "},
			{Name: "broadcast MAC", Change: func(c *wol.Config) { c.MAC = "ff:ff:ff:ff:ff:ff" }, Want: "mac: ff:ff:ff:ff:ff:ff is no card's address"},
			{Name: "zero MAC", Change: func(c *wol.Config) { c.MAC = "00:00:00:00:00:00" }, Want: "is no card's address"},
			{Name: "MAC with dashes", Change: func(c *wol.Config) { c.MAC = "0c-42-a1-00-07-01" }},
			{Name: "SecureOn of four bytes", Change: func(c *wol.Config) { c.SecureOnPassword = "10.20.30.40" }, Want: "secureon_password: is not six bytes"},
			{Name: "IPv6 broadcast", Change: func(c *wol.Config) { c.Broadcast = "ff02::1" }, Want: "broadcast: "},
			{Name: "a name for broadcast", Change: func(c *wol.Config) { c.Broadcast = "relay" }, Want: "broadcast: "},
			{Name: "port 0", Change: func(c *wol.Config) { c.Broadcast = "10.0.9.255:0" }, Want: "broadcast: "},
			{Name: "nowhere", Change: func(c *wol.Config) { c.Broadcast = "0.0.0.0" }, Want: "broadcast: "},
			{Name: "another port", Change: func(c *wol.Config) { c.Broadcast = "10.0.9.255:7" }},
			{Name: "interface and broadcast", Change: func(c *wol.Config) { c.Interface, c.Broadcast = "eth1", "10.0.9.255" }, Want: "interface: is set, and so is broadcast"},
			{Name: "interface by path", Change: func(c *wol.Config) { c.Interface = "../eth1" }, Want: "interface: "},
			{Name: "interface of 16 letters", Change: func(c *wol.Config) { c.Interface = "abcdefghijklmnop" }, Want: "interface: "},
			{Name: "no way off", Change: func(c *wol.Config) { c.OffSoft = nil }, Want: "off_soft: is empty, and so is off_hard"},
			{Name: "no state", Change: func(c *wol.Config) { c.State = nil }, Want: "state: is empty"},
			{Name: "neither host nor address", Change: func(c *wol.Config) { c.Host = "" }, Want: "address: is empty, and so is host"},
			{Name: "timeout without unit", Change: func(c *wol.Config) { c.Timeout = "10" }, Want: `timeout: "10"`},
		},
		Wrong:   wol.Config{SecureOnPassword: "x", Broadcast: "x", Interface: "x/", Timeout: "x", MinInterval: "y", AuthBackoff: "z"},
		WrongIn: []string{"mac", "secureon_password", "broadcast", "interface", "address", "state", "off_soft", "timeout", "min_interval", "auth_backoff"},
		New:     func(c wol.Config) (power.Driver, error) { return wol.New(c) },
	})
}

// The program that powers a host on is not asked for: the packet does that.
func TestNoOnProgram(t *testing.T) {
	if err := (&wol.Config{}).Validate(); strings.Contains("\n"+err.Error(), "\non: ") {
		t.Errorf("the on program is asked for: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	if got := (wol.Config{MAC: "0C-42-A1-00-07-01"}).Identity(); got != "wol:0c:42:a1:00:07:01" {
		t.Errorf("identity %s", got)
	}
}
