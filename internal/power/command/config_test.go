package command_test

import (
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/command"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

func TestConfig(t *testing.T) {
	powertest.RunConfig(t, powertest.ConfigRig[command.Config]{
		HCL: []string{`
			host         = "gpu-07"
			address      = "pdu-2"
			username     = "gpupool"
			password     = "secret-Pass1"
			state        = ["/bin/echo", "on", "{address}"]
			on           = ["/bin/true", "--outlet={host}@{address}", "{\"json\": 1}"]
			off_soft     = ["/bin/true"]
			off_hard     = ["/bin/true"]
			timeout      = "1m"
			min_interval = "1s"
			auth_backoff = "1h"
		`},
		Secrets: []string{"secret-Pass1"},
		Good:    command.Config{Host: "gpu-07", State: []string{"echo", "on"}, On: []string{"/bin/true"}, OffHard: []string{"/bin/true"}},
		Cases: []powertest.ConfigCase[command.Config]{
			{Name: "neither host nor address", Change: func(c *command.Config) { c.Host = "" }, Want: "address: is empty, and so is host"},
			{Name: "host like an option", Change: func(c *command.Config) { c.Host = "-rf" }, Want: "host: "},
			{Name: "host of two lines", Change: func(c *command.Config) { c.Host = "a\nb" }, Want: "host: "},
			{Name: "no state", Change: func(c *command.Config) { c.State = nil }, Want: "state: is empty"},
			{Name: "no on", Change: func(c *command.Config) { c.On = nil }, Want: "on: is empty"},
			{Name: "no off", Change: func(c *command.Config) { c.OffHard = nil }, Want: "off_soft: is empty, and so is off_hard"},
			{Name: "empty program", Change: func(c *command.Config) { c.On = []string{""} }, Want: "on: has an empty program"},
			{Name: "relative program", Change: func(c *command.Config) { c.On = []string{"./pdu"} }, Want: `on: "./pdu" is a relative path`},
			{Name: "program with placeholder", Change: func(c *command.Config) { c.On = []string{"/opt/{host}"} }, Want: "has a placeholder"},
			{Name: "password in argv", Change: func(c *command.Config) { c.On = []string{"pdu", "-p", "{password}"} }, Want: "on: {password} is refused"},
			{Name: "unknown placeholder", Change: func(c *command.Config) { c.On = []string{"pdu", "{port}"} }, Want: "on: {port} is not a placeholder"},
			{Name: "placeholder without value", Change: func(c *command.Config) { c.On = []string{"pdu", "{address}"} }, Want: "on: {address} is used, and address is not set"},
			{Name: "NUL", Change: func(c *command.Config) { c.On = []string{"pdu", "a\x00b"} }, Want: "NUL"},
			{Name: "timeout", Change: func(c *command.Config) { c.Timeout = "1h" }, Want: "timeout: 1h0m0s is outside"},
			{Name: "min_interval", Change: func(c *command.Config) { c.MinInterval = "5" }, Want: "min_interval: "},
			{Name: "auth_backoff", Change: func(c *command.Config) { c.AuthBackoff = "1s" }, Want: "auth_backoff: "},
		},
		Wrong:   command.Config{Timeout: "x"},
		WrongIn: []string{"address", "state", "on", "off_soft", "timeout"},
		New:     func(c command.Config) (power.Driver, error) { return command.New(c) },
	})
}

func TestIdentity(t *testing.T) {
	c := command.Config{Host: "gpu-07", Address: "pdu-2", On: []string{"/bin/true"}}
	if got, want := c.Identity(), "command:/bin/true:pdu-2:gpu-07"; got != want {
		t.Errorf("identity %s, want %s", got, want)
	}
}
