package drivers_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/power/drivers"
)

// good are settings of each driver that are right.
var good = map[string]struct{ settings, identity string }{
	"ipmi": {`
		address  = "10.0.9.17"
		username = "gpupool"
		password = "gpupool-Pass1"
	`, "ipmi:10.0.9.17:623"},
	"redfish": {`
		address     = "https://10.0.9.17"
		username    = "gpupool"
		password    = "gpupool-Pass1"
		system      = "1"
		fingerprint = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	`, "redfish:10.0.9.17:443/1"},
	"wol": {`
		mac      = "0C:42:A1:00:07:01"
		host     = "gpu-07"
		state    = ["/bin/echo", "on"]
		off_soft = ["/bin/true", "{host}"]
	`, "wol:0c:42:a1:00:07:01"},
	"command": {`
		address  = "10.0.9.17"
		state    = ["/bin/echo", "on"]
		on       = ["/bin/true", "{address}"]
		off_hard = ["/bin/true", "{address}"]
	`, "command:/bin/true:10.0.9.17:"},
}

func decode(t *testing.T, text string) drivers.Decode {
	t.Helper()
	file, diags := hclparse.NewParser().ParseHCL([]byte(text), "pools.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return func(into any) error {
		if diags := gohcl.DecodeBody(file.Body, nil, into); diags.HasErrors() {
			return diags
		}
		return nil
	}
}

func TestTable(t *testing.T) {
	kinds := drivers.Kinds()
	if !slices.IsSortedFunc(kinds, func(a, b drivers.Kind) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the table is not in order")
	}
	for _, k := range kinds {
		t.Run(k.Name, func(t *testing.T) {
			g, ok := good[k.Name]
			if !ok || k.Doc == "" {
				t.Fatal("no good settings in this test, or no Doc")
			}
			identity, err := drivers.Check(k.Name, decode(t, g.settings))
			if err != nil || identity != g.identity {
				t.Errorf("Check: %q, %v, want %q", identity, err, g.identity)
			}
			d, err := drivers.New(k.Name, decode(t, g.settings))
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}

			bad := g.settings + "\ntimeout = \"10\"\n"
			if _, err := drivers.Check(k.Name, decode(t, bad)); err == nil || !strings.HasPrefix(err.Error(), "timeout: ") {
				t.Errorf("Check of a mistake: %v", err)
			}
			if d, err := drivers.New(k.Name, decode(t, bad)); err == nil || d != nil {
				t.Errorf("New with a mistake: %v, %v", d, err)
			}
			broken := errors.New("cannot decode")
			fails := func(any) error { return broken }
			if _, err := drivers.Check(k.Name, fails); !errors.Is(err, broken) {
				t.Errorf("Check with a failing decode: %v", err)
			}
			if d, err := drivers.New(k.Name, fails); !errors.Is(err, broken) || d != nil {
				t.Errorf("New with a failing decode: %v, %v", d, err)
			}
		})
	}
}

func TestUnknownDriver(t *testing.T) {
	_, err := drivers.New("ipmy", nil)
	if _, checkErr := drivers.Check("ipmy", nil); fmt.Sprint(err) != fmt.Sprint(checkErr) {
		t.Errorf("New says %v, Check says %v", err, checkErr)
	}
	for _, k := range drivers.Kinds() {
		if !strings.Contains(fmt.Sprint(err), k.Name) {
			t.Errorf("%v does not name %s", err, k.Name)
		}
	}
}

// The table is the inventory's check as it is.
var _ inventory.Check = drivers.Check

// The inventory's own decoding and the drivers agree on what is a credential,
// where mistakes are, and when two hosts have one controller.
func TestWithInventory(t *testing.T) {
	t.Setenv("BMC_PASSWORD", "gpupool-Pass1")
	const twoHosts = `
pool "h100" {
  node_pool = "gpu"
  gpus_per_host = 8
  power "ipmi" {
    username = "gpupool"
    password = "env:BMC_PASSWORD"
%s
  }
  host "a" {
    power { address = "10.0.9.1" }
  }
  host "b" {
    power { address = "%s" }
  }
}
`
	inv, err := inventory.Parse("pools.hcl", fmt.Appendf(nil, twoHosts, "", "10.0.9.2:6230"), drivers.Check)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range inv.Pools[0].Hosts {
		d, err := drivers.New(h.Power.Driver, h.Power.Decode)
		if err != nil {
			t.Fatalf("host %s: %v", h.ID, err)
		}
		if text := fmt.Sprintf("%v %+v %#v", d, d, d); strings.Contains(text, "gpupool-Pass1") {
			t.Errorf("the driver prints its password: %s", text)
		}
		_ = d.Close()
	}

	for name, c := range map[string]struct{ more, address, want string }{
		"one BMC":    {"", "10.0.9.1:623", "same power controller"},
		"suite 0":    {"    cipher_suite = 0", "10.0.9.2", "cipher_suite"},
		"its line":   {"    timeout = \"10\"", "10.0.9.2", "pools.hcl:8"},
		"no key":     {"    retries = 3", "10.0.9.2", "retries"},
		"its driver": {"", "10.0.9.2/24", "is not an address"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := inventory.Parse("pools.hcl", fmt.Appendf(nil, twoHosts, c.more, c.address), drivers.Check)
			if !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Talking to a BMC without knowing that it is one is said wherever the file is
// read.
func TestUnverifiedTLSIsWarnedOf(t *testing.T) {
	t.Setenv("BMC_PASSWORD", "gpupool-Pass1")
	for skip, want := range map[string]int{"true": 1, "false": 0} {
		inv, err := inventory.Parse("pools.hcl", fmt.Appendf(nil, `
pool "h100" {
  node_pool = "gpu"
  gpus_per_host = 8
  power "redfish" {
    username = "gpupool"
    password = "env:BMC_PASSWORD"
    insecure_skip_verify = %s
  }
  host "a" {
    power { address = "10.0.9.1" }
  }
}
`, skip), drivers.Check)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(strings.Join(inv.Warnings, "\n"), "pools.hcl:8: "); got != want {
			t.Errorf("insecure_skip_verify = %s: warnings are %q", skip, inv.Warnings)
		}
	}
}

// Each key of each driver is in the reference.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../../../docs/reference/power.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range drivers.Kinds() {
		_, section, found := strings.Cut(string(page), "\n## `"+k.Name+"`")
		if !found {
			t.Errorf("no section on %s", k.Name)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		var config any
		_, _ = k.Check(func(into any) error { config = into; return nil })
		schema, _ := gohcl.ImpliedBodySchema(config)
		for _, a := range schema.Attributes {
			if !strings.Contains(section, "| `"+a.Name+"` |") {
				t.Errorf("%s: no row on %s", k.Name, a.Name)
			}
		}
	}
}
