package main

import (
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "rewrite the generated part of the reference page")

func TestReferencePage(t *testing.T) {
	plugin, policy := pluginconfig.Read(pluginName, nil), pluginconfig.Read(pluginName, nil)
	declare(plugin)
	declarePolicy(policy)
	doc := "### In the `config` of the autoscaler's `target` block\n\n" + plugin.Doc() +
		"\n### In the `target` block of a policy\n\n" + policy.Doc()
	if err := setting.CheckPage("../../docs/reference/target-gpupool.md", doc, *update); err != nil {
		t.Error(err)
	}
}

// nowhere is the configuration of a plugin whose servers are not there: with
// nothing to ask, all that it does is its own doing.
func nowhere(pools string) map[string]string {
	return map[string]string{"pools": pools, "consul_address": "127.0.0.1:1", "nomad_address": "http://127.0.0.1:1", "listen": "off"}
}

// TestBadInput: each mistake is one clear error that says where it is and how
// to mend it. No program of a power driver is ever run.
func TestBadInput(t *testing.T) {
	t.Setenv("GPUPOOL_TEST_EMPTY", "")
	for _, tt := range []struct {
		name    string
		replace []string // in pools.hcl
		config  map[string]string
		file    func(t *testing.T, r *rack) string // in place of pools.hcl
		want    []string
	}{
		{
			name:    "a BMC credential that is not there",
			replace: []string{"  power \"command\" {\n", "  power \"command\" {\n    password = \"env:GPUPOOL_TEST_NOWHERE\"\n"},
			want:    []string{"pools.hcl:7:", `pool "h100"`, "password: ", "GPUPOOL_TEST_NOWHERE", "not set"},
		},
		{
			name:    "a BMC credential in a file that is not there",
			replace: []string{"  power \"command\" {\n", "  power \"command\" {\n    password = \"file:/nonexistent/bmc\"\n"},
			want:    []string{"pools.hcl:7:", "password: ", "/nonexistent/bmc"},
		},
		{
			name:    "a BMC credential in clear",
			replace: []string{"  power \"command\" {\n", "  power \"command\" {\n    password = \"hunter2\"\n"},
			want:    []string{"pools.hcl:7:", "password: ", "env:NAME"},
		},
		{
			name:    "a key of a pool that does not exist",
			replace: []string{"agent         =", "agents ="},
			want:    []string{"pools.hcl:4:", `pool "h100"`, "agents: ", `did you mean "agent"?`},
		},
		{
			name:    "a key of a driver that does not exist",
			replace: []string{"off_soft =", "off_sort ="},
			want:    []string{"pools.hcl:9:", "off_sort: ", `did you mean "off_soft"?`},
		},
		{
			name:    "two hosts with one BMC",
			replace: []string{`{ host = "h100-2" }`, `{ host = "h100-1" }`},
			want:    []string{"pools.hcl:15:", `host "h100-2"`, `host "h100-1" on line 11 has the same power controller`, "correct the address"},
		},
		{
			name:    "a driver that does not exist",
			replace: []string{`power "command"`, `power "impi"`},
			want:    []string{"pools.hcl:", `"impi"`, "ipmi"},
		},
		{
			name:    "a program that does not exist",
			replace: []string{`/power", "on"`, `/pwoer", "on"`},
			want:    []string{"pools.hcl", `pool "h100"`, `host "h100-1"`, `power "command"`, "on: ", "/pwoer", "correct its path"},
		},
		{
			name: "no pools.hcl",
			file: func(_ *testing.T, r *rack) string { return r.path("none.hcl") },
			want: []string{"target-gpupool: pools: ", "none.hcl", "no such file"},
		},
		{
			name: "a directory for pools.hcl",
			file: func(_ *testing.T, r *rack) string { return r.dir },
			want: []string{"target-gpupool: pools: ", "is a directory", "name the file in it"},
		},
		{
			name: "a huge pools.hcl",
			file: func(t *testing.T, r *rack) string {
				path := r.write("huge.hcl", "")
				if err := os.Truncate(path, 1<<40); err != nil {
					t.Fatal(err)
				}
				return path
			},
			want: []string{"target-gpupool: pools: ", "huge.hcl", "is larger than", "is it the right file?"},
		},
		{
			name: "an empty pools.hcl",
			file: func(_ *testing.T, r *rack) string { return r.write("empty.hcl", "") },
			want: []string{"empty.hcl:1: there is no pool", `pool "NAME"`},
		},
		{
			name:   "a key of the plugin that does not exist",
			config: map[string]string{"consul_adress": "127.0.0.1:8500"},
			want:   []string{"target-gpupool: consul_adress: ", `did you mean "consul_address"?`},
		},
		{
			name:   "a duration without a unit",
			config: map[string]string{"lease_ttl": "15"},
			want:   []string{"target-gpupool: lease_ttl: ", `"15s"`},
		},
		{
			name:   "a lease that Consul would not grant",
			config: map[string]string{"lease_ttl": "5m"},
			want:   []string{"target-gpupool: lease_ttl: ", "10s", "1m"},
		},
		{
			name:   "certificates for agents without TLS",
			config: map[string]string{"agent_ca_file": "/nonexistent/ca.pem"},
			want:   []string{"target-gpupool: agent_tls: is not set", "set it to true"},
		},
		{
			name:   "a certificate for agents that is not there",
			config: map[string]string{"agent_tls": "true", "agent_ca_file": "/nonexistent/ca.pem"},
			want:   []string{"target-gpupool: TLS to the agents: ", "/nonexistent/ca.pem"},
		},
		{
			name:   "an address that is none",
			config: map[string]string{"listen": "9110"},
			want:   []string{"target-gpupool: listen: ", "host:port, or off"},
		},
		{
			name:   "a token that is not there",
			config: map[string]string{"consul_token": "env:GPUPOOL_TEST_NOWHERE"},
			want:   []string{"target-gpupool: consul_token: ", "GPUPOOL_TEST_NOWHERE"},
		},
		{
			name:   "a token in clear",
			config: map[string]string{"consul_token": "hunter2"},
			want:   []string{"target-gpupool: consul_token: ", "env:NAME"},
		},
		{
			name:   "a certificate that is not there",
			config: map[string]string{"consul_ca_file": "/nonexistent/ca.pem"},
			want:   []string{"target-gpupool: ", "/nonexistent/ca.pem"},
		},
		{
			name:    "several mistakes",
			config:  map[string]string{"lease_ttl": "15", "poools": "x", "consul_ca_file": "/nonexistent/ca.pem"},
			replace: []string{"agent         =", "agents =", "off_soft =", "off_sort ="},
			want:    []string{"lease_ttl: ", "poools: ", "agents: ", "off_sort: ", "ca.pem"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRack(t)
			config := nowhere(r.pools([]string{"h100"}, tt.replace...))
			if tt.file != nil {
				config["pools"] = tt.file(t, r)
			}
			maps.Copy(config, tt.config)
			p := newPlugin(hclog.NewNullLogger())
			defer p.stop(t.Context())

			err := p.SetConfig(config)
			wantError(t, err, tt.want...)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the credential is in: %v", err)
			}
			if _, err := p.Status(policy("h100")); err == nil || !strings.Contains(err.Error(), "no configuration") {
				t.Errorf("Status of a plugin that was never configured: %v", err)
			}
			if runs := r.runs(); !slices.Equal(runs, []string{""}) {
				t.Errorf("it ran %q", runs)
			}
		})
	}
	if n := runnersAlive(); n != 0 {
		t.Errorf("%d runners were left behind", n)
	}
}

func TestNoPoolsAtAll(t *testing.T) {
	wantError(t, newPlugin(hclog.NewNullLogger()).SetConfig(nil), "target-gpupool: pools: ", "required")
}

// TestBadPolicy: what is wrong in a policy's target block.
func TestBadPolicy(t *testing.T) {
	r := newRack(t)
	p := start(t, nowhere(r.pools([]string{"h100", "a100"})))
	for _, tt := range []struct {
		name   string
		config map[string]string
		want   []string
	}{
		{"no pool", nil, []string{"target-gpupool policy: pool: ", "required"}},
		{"an empty pool", policy(""), []string{"target-gpupool policy: pool: "}},
		{"a pool that is not in the inventory", policy("h200"), []string{"target-gpupool policy: pool: ", `"h200" is not in the inventory`, `did you mean "h100"?`}},
		{"a pool that is like no other", policy("training"), []string{"known are a100, h100"}},
		{"a long name", policy(strings.Repeat("x", 1<<20)), []string{"target-gpupool policy: pool: ", "1048576 bytes"}},
		{"a key that does not exist", map[string]string{"pool": "h100", "pol": "h100"}, []string{"target-gpupool policy: pol: ", `did you mean "pool"?`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := p.Status(tt.config)
			wantError(t, err, tt.want...)
			if err != nil && len(err.Error()) > 4<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			wantError(t, p.Scale(action(1), tt.config), tt.want...)
		})
	}
	time.Sleep(time.Second) // some ticks, were there any
	if runs := r.runs(); !slices.Equal(runs, []string{""}) {
		t.Errorf("it ran %q", runs)
	}
}
