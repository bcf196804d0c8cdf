package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/e2e/lab"
	"github.com/gpupool/gpupool/e2e/stage"
	"github.com/gpupool/gpupool/internal/board"
)

// prometheus is a real one (Debian package prometheus).
type prometheus struct {
	t   *testing.T
	url string
}

// watch starts a Prometheus on the agents and plugins of a stage, with the
// alerts of jobs/monitoring. The targets are named one by one, because Debian's
// build has no discovery through Consul, which jobs/monitoring/sdtest tries.
func watch(p *play) *prometheus {
	p.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		p.Fatal("no prometheus: make tools PACKAGES=test installs it")
	}
	alerts, err := filepath.Abs("../jobs/monitoring/alerts.yml")
	p.ok(err)
	entries, _, err := p.Consul().Health().Service("gpupool-agent", "", true, nil)
	p.ok(err)
	var agents []string
	for _, e := range entries {
		agents = append(agents, fmt.Sprintf("%q", net.JoinHostPort(e.Service.Address, fmt.Sprint(e.Service.Port))))
	}
	dir := p.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - {job_name: gpupool-agent, static_configs: [{targets: [%s]}]}
  - {job_name: gpupool-target, static_configs: [{targets: ["127.0.0.1:9110"]}]}
  - {job_name: gpupool-apm, static_configs: [{targets: ["127.0.0.1:9111"]}]}
`, alerts, strings.Join(agents, ", "))
	p.ok(os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	p.ok(err)
	address := free.Addr().String()
	p.ok(free.Close())

	var log strings.Builder
	cmd := exec.Command(path, "--config.file", filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.ok(cmd.Start())
	p.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if p.Failed() {
			p.Logf("prometheus said:\n%s", log.String())
		}
	})
	prom := &prometheus{p.T, "http://" + address}
	p.ok(lab.Until(p.ctx, "prometheus is ready", func(ctx context.Context) (bool, error) {
		resp, err := http.Get(prom.url + "/-/ready")
		if err != nil {
			return false, nil
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	}))
	return prom
}

// get asks Prometheus' API.
func (p *prometheus) get(path string, into any) error {
	resp, err := http.Get(p.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("GET %s: %w: %.200s", path, err, text)
	}
	if answer.Status != "success" {
		return fmt.Errorf("GET %s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// series is the number of series that an expression has now.
func (p *prometheus) series(expr string) (int, error) {
	var data struct{ Result []json.RawMessage }
	err := p.get("/api/v1/query?query="+url.QueryEscape(expr), &data)
	return len(data.Result), err
}

// expressions are those of the dashboard, by panel, as Grafana would send them.
func expressions(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../jobs/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$pool", ".*", "$__rate_interval", "30s").Replace(target.Expr)
			all[panel.Title] = append(all[panel.Title], expr)
		}
	}
	return all
}

// quiet are the panels that have nothing to show where all is well, and those of
// model servers, which package serving plays.
var quiet = []string{"Not well", "XIDs and throttling", "Time to the first token, p95 of the slowest", "KV cache", "Warm-up", "Requests that wait and run", "Instances by state", "Boots, drains and stops, as learned"}

// TestMonitoring: the dashboard and the alerts work as they are, on a real
// Prometheus that scrapes real agents and plugins.
func TestMonitoring(t *testing.T) {
	p := raise(t)
	p.ok(p.Train(p.ctx, 1, 2, 10*time.Minute))
	_, err := p.UntilAlloc(p.ctx, "train", nomadapi.AllocClientStatusRunning)
	p.ok(err)
	p.ok(p.UntilBoard(p.ctx, "gpu-1 is ready", func(b board.Pool) bool { return stage.Count(b, "ready") == 1 }))
	prom := watch(p)
	p.ok(lab.Until(p.ctx, "all targets are up, twice", func(context.Context) (bool, error) {
		n, err := prom.series(`min_over_time(up[5s]) == 1 and count_over_time(up[5s]) >= 3`)
		time.Sleep(500 * time.Millisecond)
		return n == 3, err
	}))

	for panel, exprs := range expressions(t) {
		shown := 0
		for _, expr := range exprs {
			n, err := prom.series(expr)
			if err != nil {
				t.Errorf("panel %q: %v", panel, err)
			}
			shown += n
		}
		if shown == 0 && !slices.Contains(quiet, panel) {
			t.Errorf("panel %q shows nothing: %s", panel, exprs)
		}
	}

	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct{ Name, Health, LastError, State string }
		}
	}
	p.ok(prom.get("/api/v1/rules", &rules))
	count := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			count++
			if r.Health != "ok" {
				t.Errorf("alert %s is %s: %s", r.Name, r.Health, r.LastError)
			}
			if r.State != "inactive" {
				t.Errorf("alert %s is %s although all is well", r.Name, r.State)
			}
		}
	}
	if count < 10 {
		t.Errorf("%d alerts were loaded", count)
	}
}

// TestAlerts: each alert fires for what it is for, by promtool's own test of
// rules.
func TestAlerts(t *testing.T) {
	out, err := exec.Command("promtool", "test", "rules", "testdata/alerts.yml").CombinedOutput()
	if err != nil {
		t.Errorf("%v (promtool comes with prometheus: make tools PACKAGES=test)\n%s", err, out)
	}
}
