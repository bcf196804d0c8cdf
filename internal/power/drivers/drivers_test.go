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
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/setting"
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
	"ec2": {`
		instance_id = "i-0123456789abcdef0"
		region      = "eu-central-1"
	`, "ec2:eu-central-1/i-0123456789abcdef0"},
	"gce": {`
		project  = "ml-prod"
		zone     = "europe-west4-a"
		instance = "gpu-07"
	`, "gce:ml-prod/europe-west4-a/gpu-07"},
	"hcloud": {`
		server = 4711001
		token  = "gpupool-token"
	`, "hcloud:4711001"},
	"openstack": {`
		auth_url                      = "https://keystone.example.net:5000/v3"
		server_id                     = "9168b536-cd40-4630-b43f-b259807c6e87"
		application_credential_id     = "b6c1d9e2f3a44b5c8d7e6f5a4b3c2d1e"
		application_credential_secret = "gpupool-secret"
	`, "openstack:9168b536-cd40-4630-b43f-b259807c6e87"},
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

// The credentials of clouds are references too, whatever their keys are called.
func TestCloudsWithInventory(t *testing.T) {
	t.Setenv("AWS_KEY", "AKIAGPUPOOLTEST00000")
	t.Setenv("AWS_SECRET", "gpupool-Secret1")
	const file = `
pool "p5" {
  node_pool = "gpu"
  gpus_per_host = 8
  power "ec2" {
    region            = "eu-central-1"
    access_key_id     = "%s"
    secret_access_key = "env:AWS_SECRET"
  }
  host "a" {
    power { instance_id = "i-0123456789abcdef0" }
  }
  host "b" {
    power { instance_id = "%s" }
  }
}
`
	inv, err := inventory.Parse("pools.hcl", fmt.Appendf(nil, file, "env:AWS_KEY", "i-0123456789abcdef1"), drivers.Check)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range inv.Pools[0].Hosts {
		d, err := drivers.New(h.Power.Driver, h.Power.Decode)
		if err != nil {
			t.Fatalf("host %s: %v", h.ID, err)
		}
		if text := fmt.Sprintf("%v %+v %#v %v", d, d, d, h.Power); strings.Contains(text, "Secret1") || strings.Contains(text, "AKIA") {
			t.Errorf("the driver or its settings print a credential: %s", text)
		}
		_ = d.Close()
	}
	for name, c := range map[string]struct{ key, instance, want string }{
		"in clear":     {"AKIAGPUPOOLTEST00000", "i-0123456789abcdef1", "written in clear"},
		"one instance": {"env:AWS_KEY", "i-0123456789abcdef0", "same power controller"},
		"its line":     {"env:AWS_KEY", "gpu-07", "pools.hcl:14"},
	} {
		_, err := inventory.Parse("pools.hcl", fmt.Appendf(nil, file, c.key, c.instance), drivers.Check)
		if text := fmt.Sprint(err); !strings.Contains(text, c.want) || strings.Contains(text, "AKIA") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
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

const reference = "../../../docs/reference/power.md"

// The matrix of driver and case, made of the rows that the drivers' own tests
// hold true, is in the reference.
func TestMatrix(t *testing.T) {
	var names []string
	var order []string                         // of the cases
	says := make(map[string]map[string]string) // by case and driver, what the cell says
	var notes []string
	for _, k := range drivers.Kinds() {
		row, err := powertest.ReadRow("../" + k.Name)
		if err != nil {
			t.Fatalf("%s: %v; run the tests of the driver with -update", k.Name, err)
		}
		names = append(names, k.Name)
		if order == nil {
			for _, c := range row {
				order = append(order, c.Name)
				says[c.Name] = make(map[string]string)
			}
		}
		for i, c := range row {
			if i >= len(order) || c.Name != order[i] || len(row) != len(order) {
				t.Fatalf("%s: its row has other cases than that of %s: run the tests of both with -update", k.Name, names[0])
			}
			says[c.Name][k.Name] = "✓"
			if !c.Passes {
				notes = append(notes, fmt.Sprintf("%s, %s: %s.", k.Name, c.Name, c.Why))
				says[c.Name][k.Name] = fmt.Sprintf("– (%d)", len(notes))
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| case | `%s` |\n|---|%s\n", strings.Join(names, "` | `"), strings.Repeat("---|", len(names)))
	for _, c := range order {
		fmt.Fprintf(&b, "| %s |", c)
		for _, n := range names {
			fmt.Fprintf(&b, " %s |", says[c][n])
		}
		b.WriteString("\n")
	}
	b.WriteString("\nNot applicable:\n\n")
	for i, n := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	t.Log("\n" + b.String())
	if err := setting.CheckPage(reference, b.String(), *powertest.Update); err != nil {
		t.Error(err)
	}
}

// Each driver is in the table of the reference, and each of its keys in its
// section.
func TestReference(t *testing.T) {
	page, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range drivers.Kinds() {
		if row := fmt.Sprintf("| [`%s`](#%[1]s) | %s |", k.Name, k.Doc); !strings.Contains(string(page), row) {
			t.Errorf("no row %s", row)
		}
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
