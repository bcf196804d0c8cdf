package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
)

// TestPower reads a simulated BMC that is off, and one that is not there.
func TestPower(t *testing.T) {
	bmc := ipmitest.OpenIPMI(t)
	t.Setenv("BMC_PASSWORD", ipmitest.Password)
	file := filepath.Join(t.TempDir(), "pools.hcl")
	text := fmt.Sprintf(`pool "h100" {
  node_pool     = "gpu"
  device        = "nvidia/gpu"
  gpus_per_host = 2
  power "ipmi" {
    username     = %q
    password     = "env:BMC_PASSWORD"
    cipher_suite = 3
  }
  host "here" {
    power { address = %q }
  }
  host "gone" {
    power { address = "127.0.0.1:9" }
  }
}
`, ipmitest.Username, bmc.Addr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := newPower()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append([]string{"--pools", file, "--timeout", "5s"}, args...))
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		err := cmd.Execute()
		return out.String(), err
	}

	out, err := run("here")
	if err != nil || !strings.Contains(out, "off") {
		t.Errorf("one that answers: %v\n%s", err, out)
	}
	out, err = run()
	if !errors.Is(err, errUnanswered) || !strings.Contains(out, "unknown") || !strings.Contains(out, "unreachable") {
		t.Errorf("one that does not: %v\n%s", err, out)
	}
	if strings.Contains(out, ipmitest.Password) {
		t.Error("the password is printed")
	}
	if _, err := run("elsewhere"); err == nil || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("an unknown host: %v", err)
	}
}
