package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
)

// gpupool runs the command as a shell would.
func gpupool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// put writes a record of a pool, whoever may.
func put(t *testing.T, agent *consultest.Agent, key string, v any) {
	t.Helper()
	value, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Client().KV().Put(&api.KVPair{Key: consul.DefaultPrefix + key, Value: value}, nil); err != nil {
		t.Fatal(err)
	}
}

// contains reports the parts that are missing.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: %q is not in:\n%s", what, part, text)
		}
	}
}

const onePool = `pool "h100" {
  node_pool     = "gpu"
  gpus_per_host = 2
  agent         = "none"
  power "ipmi" {
    username     = "` + ipmitest.Username + `"
    password     = "env:BMC_PASSWORD"
    cipher_suite = 3
  }
  host "gpu-1" {
    power { address = "ADDRESS" }
  }
  host "gpu-2" {
    power { address = "127.0.0.1:9" }
  }
}
`

func inventoryFile(t *testing.T, address string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pools.hcl")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(onePool, "ADDRESS", address)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestOperatorsDay: words are said, seen, replaced and taken back; what would
// be done is shown; and nobody changes the power of a host that somebody else
// acts on.
func TestOperatorsDay(t *testing.T) {
	agent, server := consultest.Start(t), nomadtest.Start(t, "")
	t.Setenv("CONSUL_HTTP_ADDR", agent.Addr)
	t.Setenv("NOMAD_ADDR", server.Addr)
	bmc := ipmitest.OpenIPMI(t)
	pools := inventoryFile(t, bmc.Addr.String())
	now := time.Now().UTC()

	_, err := gpupool(t, "host", "hold", "gpu-1", "--reason", "x")
	if err == nil || !strings.Contains(err.Error(), "--pool") {
		t.Errorf("before anybody has looked: %v", err)
	}
	put(t, agent, "pools/h100/status", consul.Status{Pool: "h100", At: now, Holder: "ctl-1", Hosts: []consul.HostStatus{
		{ID: "gpu-1", Power: "off", Phase: "off"}, {ID: "gpu-2", Power: "off", Phase: "off"},
	}})
	put(t, agent, "pools/h100/want", consul.Want{Count: 1, By: "ctl-1", At: now})

	// Words.
	if _, err := gpupool(t, "host", "hold", "gpu-1"); err == nil || !strings.Contains(err.Error(), "--reason") {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := gpupool(t, "host", "hold", "gpu-11", "--reason", "x"); err == nil || !strings.Contains(err.Error(), `did you mean "gpu-1"?`) {
		t.Errorf("a host that there is not: %v", err)
	}
	out, err := gpupool(t, "host", "hold", "gpu-1", "gpu-2", "--reason", "fan 3 is loud", "--by", "ann@desk")
	if err != nil || out != "gpu-1: hold\ngpu-2: hold\n" {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = gpupool(t, "host", "off", "gpu-2", "--reason", "riser")
	if err != nil || out != "gpu-2: off, in the place of hold by ann@desk\n" {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = gpupool(t, "host", "list")
	if err != nil {
		t.Error(err)
	}
	contains(t, "list", out, "gpu-1  hold  ann@desk", "fan 3 is loud", "gpu-2  off", "@", "riser")
	if out, err = gpupool(t, "host", "list", "--json"); err != nil {
		t.Error(err)
	}
	var words []struct{ Pool, Host, Word, By, Reason string }
	if err := json.Unmarshal([]byte(out), &words); err != nil || len(words) != 2 || words[0].Word != "hold" || words[0].By != "ann@desk" || words[1].Host != "gpu-2" {
		t.Errorf("%v: %+v", err, words)
	}
	out, err = gpupool(t, "status")
	if err != nil {
		t.Error(err)
	}
	contains(t, "status", out, "said of gpu-1: hold, by ann@desk", "want 1")
	out, err = gpupool(t, "host", "release", "gpu-1", "gpu-2")
	if err != nil || !strings.Contains(out, "gpu-1: released, in the place of hold by ann@desk") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = gpupool(t, "host", "release", "gpu-1"); err != nil || out != "gpu-1: nothing was said of it\n" {
		t.Errorf("%v\n%s", err, out)
	}

	// What the TAB key offers.
	for begun, want := range map[string]string{
		"host hold gpu":                       "gpu-1\ngpu-2\n",
		"host list h":                         "h100\n",
		"status ":                             "h100\n",
		"plan --pools " + pools + " ":         "h100\n",
		"power --pools " + pools + " gpu-1 o": "off\non\n",
		"power --pools /nonexistent gpu":      "",
	} {
		args := append([]string{"__complete"}, strings.Split(begun, " ")...)
		if out, err := gpupool(t, args...); err != nil || !strings.HasPrefix(out, want+":") {
			t.Errorf("%q: %v, %q", begun, err, out)
		}
	}

	// What would be done, without the credentials, and with them.
	out, err = gpupool(t, "plan", "--pools", pools)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, "plan", out, "warning: ", "BMC_PASSWORD is not set", "pool h100   want 1   have 0   ready 0", "gpu-1  off    off    power-on  1 wanted")
	if out, err = gpupool(t, "plan", "h100", "--pools", pools, "--want", "0"); err != nil || !strings.Contains(out, "nothing to do") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err = gpupool(t, "plan", "--pools", pools, "--power"); err == nil || !strings.Contains(err.Error(), "BMC_PASSWORD is not set") {
		t.Errorf("asked without the credential: %v", err)
	}
	t.Setenv("BMC_PASSWORD", ipmitest.Password)
	out, err = gpupool(t, "plan", "--pools", pools, "--power", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var plans []planned
	if err := json.Unmarshal([]byte(out), &plans); err != nil || len(plans) != 1 || len(plans[0].Actions) != 1 || plans[0].Hosts[1].Phase != "unknown" {
		t.Errorf("%v: %+v", err, plans)
	}

	// Power, while somebody acts on the pool.
	client, err := consul.New(consul.Config{})
	if err != nil {
		t.Fatal(err)
	}
	lease := client.Pool("h100").NewLease(consul.LeaseConfig{Holder: "ctl-1"})
	go lease.Run(t.Context())
	for held := false; !held; _, held = lease.Held(time.Now()) {
		time.Sleep(10 * time.Millisecond)
	}
	out, err = gpupool(t, "power", "gpu-1", "on", "--pools", pools)
	if err == nil || !strings.Contains(err.Error(), "ctl-1 acts on pool h100: first run: gpupool host hold gpu-1") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = gpupool(t, "power", "on", "--pools", pools); err == nil || !strings.Contains(err.Error(), "name the hosts") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = gpupool(t, "host", "hold", "gpu-1", "--reason", "bringing it up"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, step := range []struct{ verb, want string }{{"on", "on"}, {"status", "on"}, {"off", "off"}} {
		out, err = gpupool(t, "power", "gpu-1", step.verb, "--pools", pools)
		if err != nil {
			t.Errorf("%s: %v\n%s", step.verb, err, out)
		}
		contains(t, step.verb, out, "gpu-1  ipmi    "+step.want)
	}
	out, err = gpupool(t, "power", "--json", "--pools", pools, "--timeout", "3s")
	var all []powered
	if jsonErr := json.Unmarshal([]byte(out), &all); jsonErr != nil || err == nil || len(all) != 2 || all[0].Power != "off" || all[1].Power != "unknown" || all[1].Error == "" {
		t.Errorf("%v, %v: %+v", err, jsonErr, all)
	}
	if strings.Contains(out, ipmitest.Password) {
		t.Error("the password is printed")
	}
}
