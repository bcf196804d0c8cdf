package command_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/gpupool/gpupool/internal/power/command"
)

func TestConfigFromHCL(t *testing.T) {
	file, diags := hclparse.NewParser().ParseHCL([]byte(`
		host     = "gpu-07"
		address  = "pdu-2"
		password = "secret-Pass1"
		state    = ["/bin/echo", "on", "{address}"]
		on       = ["/bin/true", "--outlet={host}@{address}", "{\"json\": 1}"]
		off_hard = ["/bin/true"]
		timeout  = "1m"
	`), "pools.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var c command.Config
	if diags := gohcl.DecodeBody(file.Body, nil, &c); diags.HasErrors() {
		t.Fatal(diags)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "Pass1") {
		t.Errorf("the config prints its password: %s", text)
	}
	if got, want := c.Identity(), "command:/bin/true:pdu-2:gpu-07"; got != want {
		t.Errorf("identity %s, want %s", got, want)
	}
}

func TestValidate(t *testing.T) {
	good := command.Config{Host: "gpu-07", State: []string{"echo", "on"}, On: []string{"/bin/true"}, OffHard: []string{"/bin/true"}}
	if err := good.Validate(); err != nil {
		t.Fatalf("a config of the required keys only: %v", err)
	}
	for _, c := range []struct {
		name   string
		change func(*command.Config)
		want   string
	}{
		{"neither host nor address", func(c *command.Config) { c.Host = "" }, "address: is empty, and so is host"},
		{"host like an option", func(c *command.Config) { c.Host = "-rf" }, "host: "},
		{"host of two lines", func(c *command.Config) { c.Host = "a\nb" }, "host: "},
		{"no state", func(c *command.Config) { c.State = nil }, "state: is empty"},
		{"no on", func(c *command.Config) { c.On = nil }, "on: is empty"},
		{"no off", func(c *command.Config) { c.OffHard = nil }, "off_soft: is empty, and so is off_hard"},
		{"empty program", func(c *command.Config) { c.On = []string{""} }, "on: has an empty program"},
		{"relative program", func(c *command.Config) { c.On = []string{"./pdu"} }, `on: "./pdu" is a relative path`},
		{"program with placeholder", func(c *command.Config) { c.On = []string{"/opt/{host}"} }, "has a placeholder"},
		{"password in argv", func(c *command.Config) { c.On = []string{"pdu", "-p", "{password}"} }, "on: {password} is refused"},
		{"unknown placeholder", func(c *command.Config) { c.On = []string{"pdu", "{port}"} }, "on: {port} is not a placeholder"},
		{"placeholder without value", func(c *command.Config) { c.On = []string{"pdu", "{address}"} }, "on: {address} is used, and address is not set"},
		{"NUL", func(c *command.Config) { c.On = []string{"pdu", "a\x00b"} }, "NUL"},
		{"timeout", func(c *command.Config) { c.Timeout = "1h" }, "timeout: 1h0m0s is outside"},
		{"min_interval", func(c *command.Config) { c.MinInterval = "5" }, "min_interval: "},
		{"auth_backoff", func(c *command.Config) { c.AuthBackoff = "1s" }, "auth_backoff: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := good
			c.change(&config)
			if err := config.Validate(); !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("Validate: %v, want %q", err, c.want)
			}
		})
	}
	all := fmt.Sprint((&command.Config{Timeout: "x"}).Validate())
	for _, key := range []string{"address:", "state:", "on:", "off_soft:", "timeout:"} {
		if !strings.Contains(all, key) {
			t.Errorf("no word of %s in %s", key, all)
		}
	}
}
