package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
	"github.com/gpupool/gpupool/internal/power/ipmi/ipmitest"
)

// TestCheck: a rack with one BMC that can be got into and one that is not
// there, as an operator would look at it.
func TestCheck(t *testing.T) {
	bmc := ipmitest.OpenIPMI(t)
	pools := inventoryFile(t, bmc.Addr.String())

	// Without anything: the credentials are missing, and all is told.
	out, err := gpupool(t, "check", pools, "--offline")
	if !errors.Is(err, errWrong) {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, "offline", out, "inventory  warning", "BMC_PASSWORD is not set", "h100  gpu-1  driver     WRONG", "h100  gpu-2  driver", "0 right, 1 warnings, 2 wrong")
	t.Setenv("BMC_PASSWORD", ipmitest.Password)
	out, err = gpupool(t, "check", pools, "--offline")
	if err != nil || out != "2 checks: 2 right, 0 warnings, 0 wrong\n" {
		t.Errorf("%v\n%s", err, out)
	}

	// Servers that are away, and a BMC that is.
	t.Setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	out, err = gpupool(t, "check", pools, "--timeout", "4s")
	if !errors.Is(err, errWrong) {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, "without servers", out, "Consul", "cannot reach Consul", "cannot reach Nomad", "cipher suite 0  WRONG", "gpu-2  power           WRONG")

	// All is there.
	t.Setenv("CONSUL_HTTP_ADDR", consultest.Start(t).Addr)
	server := nomadtest.Start(t, "")
	t.Setenv("NOMAD_ADDR", server.Addr)
	server.GPUClient("gpu-1", "count 1")
	longWork(t, server)
	out, err = gpupool(t, "check", pools, "--json", "--timeout", "4s")
	if !errors.Is(err, errWrong) {
		t.Errorf("%v\n%s", err, out)
	}
	var rows []row
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	clocks := 0
	for _, r := range rows {
		got[r.Host+" "+r.Check] = r.Result + " " + r.What
		if r.Host == "" && r.Check == "clock" && r.Result == "ok" {
			clocks++
		}
	}
	if clocks != 2 {
		t.Errorf("%d clocks are right, want those of Consul and Nomad: %+v", clocks, rows)
	}
	for check, want := range map[string]string{
		" Consul":              "ok answers; nobody acts on the pool",
		" kill_timeout":        `WRONG task "worker" of group "workers" of job "workers" asks for 10m0s, and the Nomad client of gpu-1 cuts it to 30s`,
		"gpu-1 Nomad node":     "WRONG is ready with 1 of 2 healthy GPUs",
		"gpu-2 Nomad node":     "warning Nomad knows no node gpu-2",
		"gpu-1 power":          "ok off, after",
		"gpu-1 cipher suite 0": "WRONG accepted",
		"gpu-1 logins":         "WRONG the BMC allows IPMI 1.5",
		"gpu-1 clock":          "warning the BMC's event log is not set",
		"gpu-2 power":          "WRONG not readable",
	} {
		if !strings.HasPrefix(got[check], want) {
			t.Errorf("%s: got %q, want %q", check, got[check], want)
		}
	}

	// A wrong password is one login, and never printed.
	t.Setenv("BMC_PASSWORD", "hunter2")
	out, err = gpupool(t, "check", pools, "--timeout", "4s")
	if !errors.Is(err, errWrong) || strings.Contains(out, "hunter2") {
		t.Errorf("%v\n%s", err, out)
	}
	contains(t, "a wrong password", out, "gpu-1  credential    WRONG", "refused the credential")

	// Mistakes of the text are told as everywhere.
	broken := filepath.Join(t.TempDir(), "pools.hcl")
	if err := os.WriteFile(broken, []byte("pool \"x\" {\n  node_pol = 1\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := gpupool(t, "check", broken); err == nil || !strings.Contains(err.Error(), `pools.hcl:2: pool "x": node_pol: there is no such setting; did you mean "node_pool"?`) {
		t.Errorf("got %v", err)
	}
}

// longWork is a job whose task asks for ten minutes to end.
func longWork(t *testing.T, server *nomadtest.Server) {
	t.Helper()
	text, err := os.ReadFile("../../jobs/workers.nomad.hcl")
	if err != nil {
		t.Fatal(err)
	}
	job, err := server.API().Jobs().ParseHCL(string(text), true)
	if err == nil {
		_, _, err = server.API().Jobs().Register(job, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Clocks that are apart are told, each with its mend; servers that say no time
// are not.
func TestCheckClocks(t *testing.T) {
	server := func(date string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"] = nil
			if date != "" {
				w.Header().Set("Date", date)
			}
			_, _ = w.Write([]byte(`"127.0.0.1:8300"`))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	f := checkFlags{timeout: 10 * time.Second}
	clocks := func(ofConsul, ofNomad string) string {
		f.cfg.Address, f.address = server(ofConsul), server(ofNomad)
		var all []string
		for _, r := range f.clocks(t.Context()) {
			all = append(all, r.Check+" "+r.Result+": "+r.What+"; "+r.Mend)
		}
		return strings.Join(all, "\n")
	}
	contains(t, "both apart", clocks(at(-time.Hour), at(time.Minute)),
		"clock warning: the clock of Consul at http://127.0.0.1", " behind this machine's; set both by NTP",
		"clock warning: the clock of Nomad at http://127.0.0.1", " ahead of this machine's; set both by NTP")
	if got := clocks("", "yesterday"); got != "" {
		t.Errorf("of servers that do not say: %s", got)
	}
}
