package wol_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/gpupool/gpupool/internal/power/wol"
)

func TestConfigFromHCL(t *testing.T) {
	file, diags := hclparse.NewParser().ParseHCL([]byte(`
		mac                 = "0C-42-A1-00-07-01"
		secureon_password   = "00:11:22:33:44:55"
		interface           = "eth1"
		host                = "gpu-07"
		state               = ["/bin/echo", "on"]
		off_soft            = ["/bin/true", "{host}"]
		timeout             = "1m"
	`), "pools.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var c wol.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &c); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if got := c.Identity(); got != "wol:0c:42:a1:00:07:01" {
		t.Errorf("identity %s", got)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "33:44") {
		t.Errorf("the config prints its password: %s", text)
	}
}

func TestValidate(t *testing.T) {
	good := wol.Config{MAC: mac, Host: "gpu-07", State: []string{"echo", "on"}, OffSoft: []string{"/bin/true"}}
	if err := good.Validate(); err != nil {
		t.Fatalf("a config of the required keys only: %v", err)
	}
	for _, c := range []struct {
		name   string
		change func(*wol.Config)
		want   string // empty: no mistake
	}{
		{"no MAC", func(c *wol.Config) { c.MAC = "" }, "mac: is empty"},
		{"MAC of five bytes", func(c *wol.Config) { c.MAC = "0c:42:a1:00:07" }, "mac: "},
		{"MAC of eight bytes", func(c *wol.Config) { c.MAC = "02:00:5e:10:00:00:00:01" }, "mac: "},
		{"broadcast MAC", func(c *wol.Config) { c.MAC = "ff:ff:ff:ff:ff:ff" }, "mac: ff:ff:ff:ff:ff:ff is no card's address"},
		{"zero MAC", func(c *wol.Config) { c.MAC = "00:00:00:00:00:00" }, "is no card's address"},
		{"MAC with dashes", func(c *wol.Config) { c.MAC = "0c-42-a1-00-07-01" }, ""},
		{"SecureOn of four bytes", func(c *wol.Config) { c.SecureOnPassword = "10.20.30.40" }, "secureon_password: is not six bytes"},
		{"IPv6 broadcast", func(c *wol.Config) { c.Broadcast = "ff02::1" }, "broadcast: "},
		{"a name for broadcast", func(c *wol.Config) { c.Broadcast = "relay" }, "broadcast: "},
		{"port 0", func(c *wol.Config) { c.Broadcast = "10.0.9.255:0" }, "broadcast: "},
		{"nowhere", func(c *wol.Config) { c.Broadcast = "0.0.0.0" }, "broadcast: "},
		{"another port", func(c *wol.Config) { c.Broadcast = "10.0.9.255:7" }, ""},
		{"interface and broadcast", func(c *wol.Config) { c.Interface, c.Broadcast = "eth1", "10.0.9.255" }, "interface: is set, and so is broadcast"},
		{"interface by path", func(c *wol.Config) { c.Interface = "../eth1" }, "interface: "},
		{"interface of 16 letters", func(c *wol.Config) { c.Interface = "abcdefghijklmnop" }, "interface: "},
		{"no way off", func(c *wol.Config) { c.OffSoft = nil }, "off_soft: is empty, and so is off_hard"},
		{"no state", func(c *wol.Config) { c.State = nil }, "state: is empty"},
		{"neither host nor address", func(c *wol.Config) { c.Host = "" }, "address: is empty, and so is host"},
		{"timeout without unit", func(c *wol.Config) { c.Timeout = "10" }, `timeout: "10"`},
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
			if strings.Contains(fmt.Sprint(err), "10.20.30.40") {
				t.Errorf("Validate spills the password: %v", err)
			}
			if _, newErr := wol.New(config); (newErr == nil) != (err == nil) {
				t.Errorf("New: %v, Validate: %v", newErr, err)
			}
		})
	}
}

func TestValidateReportsEverything(t *testing.T) {
	c := wol.Config{SecureOnPassword: "x", Broadcast: "x", Interface: "x/", Timeout: "x", MinInterval: "y", AuthBackoff: "z"}
	err := fmt.Sprint(c.Validate())
	for _, key := range []string{"mac:", "secureon_password:", "broadcast:", "interface:", "address:", "state:", "off_soft:", "timeout:", "min_interval:", "auth_backoff:"} {
		if !strings.Contains(err, key) {
			t.Errorf("no word of %s in %s", key, err)
		}
	}
	if strings.Contains(err, "\non:") {
		t.Errorf("the on program is asked for: %s", err)
	}
}
