package inventory

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "write the generated part of the reference page")

// The two drivers of the tests, which declare their settings as real ones do.
type ipmiConfig struct {
	Address     string       `hcl:"address"`
	Username    string       `hcl:"username"`
	Password    power.Secret `hcl:"password"`
	CipherSuite *int         `hcl:"cipher_suite,optional"`
}

type commandConfig struct {
	On  []string          `hcl:"on"`
	Env map[string]string `hcl:"env,optional"`
	PIN *power.Secret     `hcl:"pin,optional"`
}

func check(driver string, decode func(any) error) (string, error) {
	switch driver {
	case "ipmi":
		var c ipmiConfig
		if err := decode(&c); err != nil {
			return "", err
		}
		var errs []error
		if len(c.Password) > 20 {
			errs = append(errs, errors.New("password: is longer than 20 bytes"))
		}
		if c.CipherSuite != nil && *c.CipherSuite == 0 {
			errs = append(errs, errors.New("cipher_suite: 0 does not authenticate; set 17"))
		}
		if c.Address == "" {
			errs = append(errs, errors.New("address: is empty"))
		}
		return "ipmi:" + c.Address, errors.Join(errs...)
	case "command":
		var c commandConfig
		return "", decode(&c)
	}
	return "", fmt.Errorf("there is no power driver %q; %s", driver, setting.Suggest(driver, []string{"ipmi", "command"}))
}

// TestDiagnostics reads files and prints what they hold, or what is wrong with
// them. In testdata, "parse" uses the drivers above, "parse nocheck" none,
// and "parse lenient" reads as who changes nothing does.
func TestDiagnostics(t *testing.T) {
	secretFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secretFile, []byte("from-file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(secretFile, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BMC_USER", "operator")
	t.Setenv("BMC_PASSWORD", "from-env")
	t.Setenv("BMC_LONG_PASSWORD", strings.Repeat("x", 21))
	t.Setenv("BMC_EMPTY", "")

	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			c := Check(check)
			if d.HasArg("nocheck") {
				c = nil
			}
			var options []Option
			if d.HasArg("lenient") {
				options = append(options, Lenient())
			}
			inv, err := Parse("pools.hcl", []byte(strings.ReplaceAll(d.Input, "SECRETFILE", secretFile)), c, options...)
			if err != nil {
				out := strings.ReplaceAll(err.Error(), secretFile, "SECRETFILE")
				for _, leak := range []string{"from-env", "from-file", "hunter2", strings.Repeat("x", 21)} {
					if strings.Contains(out, leak) {
						t.Errorf("%s: the error prints a credential", d.Pos)
					}
				}
				return out + "\n"
			}
			return strings.ReplaceAll(describe(inv), secretFile, "SECRETFILE")
		})
	})
}

func describe(inv *Inventory) string {
	var b strings.Builder
	for _, p := range inv.Pools {
		fmt.Fprintf(&b, "pool %s: node_pool %s, device %s, %d to %d hosts of %d GPUs, %d booting, %d draining, agent %s\n",
			p.Name, p.NodePool, p.Device, p.Min, p.Max, p.GPUsPerHost, p.MaxBooting, p.MaxDraining, p.Agent)
		fmt.Fprintf(&b, "  boot %s, confirm %s, drain %s, soft off %s, hard off %v, poll %s, stale %s, fence %s\n",
			p.BootTimeout, p.PowerConfirm, p.DrainDeadline, p.SoftOffTimeout, p.HardOff, p.Poll, p.StaleAfter, p.Fence)
		for _, c := range p.Classes {
			fmt.Fprintf(&b, "  class %s: %d of %s, %gW to boot, %gW to run, %g an hour, spot %v, standby %d, boot %s\n",
				c.Name, c.GPUs, c.Device, c.WattsBoot, c.WattsRun, c.CostPerHour, c.Spot, c.Standby, c.BootTimeout)
		}
		for _, k := range p.Racks {
			fmt.Fprintf(&b, "  rack %s: %s\n", k.Name, k.PowerBudget)
		}
		for _, h := range p.Hosts {
			fmt.Fprintf(&b, "  host %s: node %s, %d GPUs, power %v", h.ID, h.Node, h.GPUs, h.Power)
			if h.Class != "" || h.Rack != "" {
				fmt.Fprintf(&b, ", class %s, rack %s", h.Class, h.Rack)
			}
			b.WriteByte('\n')
		}
	}
	for _, w := range inv.Warnings {
		fmt.Fprintln(&b, "warning:", w)
	}
	return b.String()
}

const small = `
pool "h100" {
  node_pool     = "gpu"
  gpus_per_host = 2
  power "ipmi" {
    username = "env:BMC_USER"
    password = "env:BMC_PASSWORD"
  }
  host "gpu-1" {
    power { address = "10.1.0.11" }
  }
}
`

func TestDecode(t *testing.T) {
	t.Setenv("BMC_USER", "operator")
	t.Setenv("BMC_PASSWORD", "first")
	inv, err := Parse("pools.hcl", []byte(small), check)
	if err != nil {
		t.Fatal(err)
	}
	pool, found := inv.Pool("h100")
	if !found || len(pool.Hosts) != 1 {
		t.Fatalf("pool h100 is %+v", pool)
	}
	pw := pool.Hosts[0].Power
	for _, want := range []string{"first", "second"} { // rotated between two decodes
		t.Setenv("BMC_PASSWORD", want)
		var got ipmiConfig
		if err := pw.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got.Address != "10.1.0.11" || got.Username != "operator" || got.Password.Reveal() != want {
			t.Errorf("got %q %q %q", got.Address, got.Username, got.Password.Reveal())
		}
	}
	for _, text := range []string{fmt.Sprintf("%v", pw), fmt.Sprintf("%+v", inv), fmt.Sprintf("%#v", inv)} {
		if strings.Contains(text, "second") {
			t.Errorf("the credential is printed: %s", text)
		}
	}
	if got, want := pw.String(), "ipmi(address=10.1.0.11, password=env:BMC_PASSWORD, username=env:BMC_USER)"; got != want {
		t.Errorf("String is %s, want %s", got, want)
	}

	os.Unsetenv("BMC_PASSWORD")
	want := `pools.hcl:7: pool "h100": power "ipmi": password: environment variable BMC_PASSWORD is not set; set it for the process that reads this file, or use "file:PATH"`
	if err := pw.Decode(new(ipmiConfig)); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := (Power{}).Decode(new(ipmiConfig)); err == nil {
		t.Error("an empty Power decoded")
	}
}

func TestDecodeMapsAndLists(t *testing.T) {
	t.Setenv("BMC_PASSWORD", "s3cret")
	inv, err := Parse("pools.hcl", []byte(`
pool "lab" {
  node_pool     = "gpu"
  gpus_per_host = 1
  host "a" {
    power "command" {
      on  = ["/usr/bin/plug", "on", "$${literal}"]
      env = { PLUG_PASSWORD = "env:BMC_PASSWORD", PLUG = "env:BMC_PASSWORD" }
      pin = "env:BMC_PASSWORD"
    }
  }
}
`), check)
	if err != nil {
		t.Fatal(err)
	}
	var got commandConfig
	if err := inv.Pools[0].Hosts[0].Power.Decode(&got); err != nil {
		t.Fatal(err)
	}
	pin := power.Secret("s3cret")
	want := commandConfig{
		On: []string{"/usr/bin/plug", "on", "${literal}"},
		// Only what is named like a credential, or typed as one, is resolved.
		Env: map[string]string{"PLUG_PASSWORD": "s3cret", "PLUG": "env:BMC_PASSWORD"},
		PIN: &pin,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if text := inv.Pools[0].Hosts[0].Power.String(); text != "command(env=..., on=..., pin=env:BMC_PASSWORD)" {
		t.Errorf("String is %s", text)
	}
}

func TestLoad(t *testing.T) {
	t.Setenv("BMC_USER", "operator")
	t.Setenv("BMC_PASSWORD", "x")
	dir := t.TempDir()
	path := filepath.Join(dir, "pools.hcl")
	if _, err := Load(path, check); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(dir, check); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
	if err := os.WriteFile(path, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	inv, err := Load(path, check)
	if err != nil {
		t.Fatal(err)
	}
	if inv.Pools[0].BootTimeout != 15*time.Minute {
		t.Errorf("got %+v", inv.Pools[0])
	}
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, check); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestTooManyHosts(t *testing.T) {
	var b strings.Builder
	b.WriteString("pool \"p\" {\nnode_pool = \"gpu\"\ngpus_per_host = 1\npower \"command\" { on = [\"x\"] }\n")
	for i := range maxHosts + 1 {
		fmt.Fprintf(&b, "host \"h%d\" {}\n", i)
	}
	b.WriteString("}\n")
	_, err := Parse("pools.hcl", []byte(b.String()), check)
	if err == nil || !strings.Contains(err.Error(), "more than 10000 hosts") {
		t.Errorf("got %v", err)
	}
}

func TestNestingIsBounded(t *testing.T) {
	for name, src := range map[string]string{
		"lists":  "a = " + strings.Repeat("[", 20_000),
		"blocks": strings.Repeat("pool {\n", 20_000),
		"parens": "a = " + strings.Repeat("(", 20_000),
		"unary":  "a = " + strings.Repeat("-", 20_000) + "1",
		"not":    "a = " + strings.Repeat("!", 20_000) + "true",
		"number": "a = 1e999999999",
		"tiny":   "a = 1e-999999999",
		"digits": "a = " + strings.Repeat("9", 20_000),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse("pools.hcl", []byte(src), nil); err == nil || !strings.Contains(err.Error(), "write plain values") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	golden, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(golden) == 0 {
		f.Fatal("no golden files", err)
	}
	for _, path := range golden {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(content), "\n\n") {
			_, part, _ = strings.Cut(part, "\n")
			src, _, _ := strings.Cut(part, "\n----\n")
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src string) {
		for _, c := range []Check{nil, check} {
			inv, err := Parse("pools.hcl", []byte(src), c)
			if _, lenient := Parse("pools.hcl", []byte(src), c, Lenient()); err == nil && lenient != nil {
				t.Errorf("what is right is refused by who looks only: %v", lenient)
			}
			if err != nil {
				if !strings.HasPrefix(err.Error(), "pools.hcl") && !strings.Contains(err.Error(), "\n  pools.hcl:") {
					t.Errorf("an error without a place: %v", err)
				}
				continue
			}
			_ = describe(inv)
			for _, p := range inv.Pools {
				if p.Min > p.Max || p.Max > len(p.Hosts) || p.GPUsPerHost < 1 || p.StaleAfter < 2*p.Poll {
					t.Errorf("an impossible pool was accepted: %+v", p)
				}
				for _, h := range p.Hosts {
					class, found := p.Class(h.Class)
					if h.GPUs < 1 || found != (len(p.Classes) > 0) || found && !narrower(class.Device, p.Device) || h.Power.Driver == "" {
						t.Errorf("an impossible host was accepted: %+v of %+v", h, p)
					}
				}
				for _, k := range p.Racks {
					if k.PowerBudget < 0 || k.Name == "" {
						t.Errorf("an impossible rack was accepted: %+v", k)
					}
				}
			}
		}
	})
}

// TestReferencePage keeps docs/reference/pools.md what the code says.
func TestReferencePage(t *testing.T) {
	pool, class, rack, host := page(), page(), page(), page()
	new(Pool).declare(pool, 0)
	new(Class).declare(class, new(Pool))
	new(Rack).declare(rack)
	new(Host).declare(host, new(Pool))
	want := "### In `pool \"NAME\" { ... }`\n\n" + setting.Markdown(pool.Fields()) +
		"\n### In `class \"NAME\" { ... }` of a pool\n\n" + setting.Markdown(class.Fields()) +
		"\n### In `rack \"NAME\" { ... }` of a pool\n\n" + setting.Markdown(rack.Fields()) +
		"\n### In `host \"NAME\" { ... }`\n\n" + setting.Markdown(host.Fields())
	if err := setting.CheckPage("../../docs/reference/pools.md", want, *update); err != nil {
		t.Error(err)
	}
}

func page() *setting.Reader { return setting.NewReader(setting.Place{}, nil) }
