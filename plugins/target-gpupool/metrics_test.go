package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/jsonl"
	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/setting"
)

// TestMetricsPage keeps docs/reference/target-metrics.md what the code says.
func TestMetricsPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("| Metric | Type | Labels | What it is |\n|---|---|---|---|\n")
	for _, m := range metrics {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), m.help)
	}
	if err := setting.CheckPage("../../docs/reference/target-metrics.md", b.String(), *update); err != nil {
		t.Error(err)
	}
}

func TestMetricNames(t *testing.T) {
	for _, m := range metrics {
		if !strings.HasPrefix(m.name, "gpupool_") || m.help == "" || !strings.HasSuffix(m.help, ".") ||
			strings.HasSuffix(m.name, "_total") != (m.kind == "counter") {
			t.Errorf("%+v", m)
		}
	}
	w := httptest.NewRecorder()
	handler(newMeter(func() map[string]*live.Runner { return nil })).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if problems, err := promlint.New(w.Body).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if len(phases) != len(slices.Compact(slices.Clone(phases))) || !strings.HasPrefix(pool.Phase(len(phases)).String(), "invalid") {
		t.Errorf("%v are not all phases", phases)
	}
}

// scrape reads the metrics of a handler, by name and labels.
func scrape(t *testing.T, h http.Handler) map[string]float64 {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(w.Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d: %v", w.Code, err)
	}
	values := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(labels)
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			values[name+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return values
}

// TestMetricsOfAPool: what happens is counted, from the first tick to a reload.
func TestMetricsOfAPool(t *testing.T) {
	s := startServers(t)
	r := newRack(t)
	log := filepath.Join(t.TempDir(), "steps.jsonl")
	config := s.config(r.pools([]string{"metered"}, "agent         =", "class \"x\" {\n    watts_boot = 900\n    watts_run = 700\n  }\n  agent =",
		"{\n    power { host", "{\n    class = \"x\"\n    power { host"))
	config["decision_log"] = log
	p := start(t, config)
	h := handler(p.meter)
	p.untilReady("metered")
	p.scale("metered", 1)
	r.untilDid("on metered-1")
	p.untilHave("metered", "1")
	until(t, "the draw and the energy are estimated", func() string {
		got := scrape(t, h)
		if w, j := got["gpupool_pool_power_watts{class=x,pool=metered}"], got["gpupool_pool_energy_joules_total{class=x,pool=metered}"]; w != 900 || j <= 0 {
			return fmt.Sprint(w, " W, ", j, " J")
		}
		return ""
	})
	want := map[string]float64{
		"gpupool_pool_want_hosts{pool=metered}":                            1,
		"gpupool_pool_have_hosts{pool=metered}":                            1,
		"gpupool_pool_hosts{phase=booting,pool=metered}":                   1,
		"gpupool_pool_hosts{phase=off,pool=metered}":                       1,
		"gpupool_pool_hosts{phase=quarantined,pool=metered}":               0,
		"gpupool_pool_scalable{pool=metered}":                              1,
		"gpupool_pool_lease_held{pool=metered}":                            1,
		"gpupool_pool_actions_total{do=power-on,pool=metered,result=done}": 1,
		"gpupool_power_call_seconds{call=on,pool=metered,result=ok}":       1,
	}
	got := scrape(t, h)
	for name, v := range want {
		if g, there := got[name]; !there || g != v {
			t.Errorf("%s is %v, want %v", name, g, v)
		}
	}
	for _, atLeast := range []string{
		"gpupool_pool_ticks_total{pool=metered,result=decided}", "gpupool_pool_energy_joules_total{class=x,pool=metered}",
		"gpupool_power_call_seconds{call=state,pool=metered,result=ok}",
	} {
		if got[atLeast] <= 0 {
			t.Errorf("%s is %v", atLeast, got[atLeast])
		}
	}
	before := got["gpupool_pool_energy_joules_total{class=x,pool=metered}"]
	if err := p.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	p.untilReady("metered")
	if after := scrape(t, h)["gpupool_pool_energy_joules_total{class=x,pool=metered}"]; after < before {
		t.Errorf("a reload lost energy: %v J, and %v J before", after, before)
	}

	// The log has it all, in lines of JSON.
	p.stop(t.Context())
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for line := range strings.Lines(string(text)) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines = append(lines, v)
	}
	if lines[0]["log"] != stepsMagic {
		t.Errorf("it begins with %v", lines[0])
	}
	if missing := lacks(string(text), `"do":"power-on"`, `"result":"done"`, `"from":"off","to":"booting"`, `"want":1`); missing != "" {
		t.Errorf("the log lacks %s:\n%s", missing, text)
	}
	if len(lines) > 20 { // hundreds of ticks
		t.Errorf("the log has %d lines, of which most tell nothing new", len(lines))
	}
}

func TestHealth(t *testing.T) {
	s := startServers(t)
	p := start(t, s.config(newRack(t).pools([]string{"well"})))
	p.untilReady("well")
	w := httptest.NewRecorder()
	handler(p.meter).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
	if body := w.Body.String(); w.Code != http.StatusOK || lacks(body, `"status":"ok"`, `"acts":true`, `"scalable":true`) != "" {
		t.Errorf("%d: %s", w.Code, body)
	}
	// The same, five minutes later, if no tick had ended.
	if h, ok := health(p.all(), time.Now().Add(stuckAfter+time.Minute)); ok || h.Status != "stuck" {
		t.Errorf("a loop that is stuck is called %+v", h)
	}
}

func TestClassesOfErrors(t *testing.T) {
	for want, err := range map[string]error{
		"ok": nil, "unreachable": power.ErrUnreachable, "auth": power.ErrAuth, "refused": power.ErrRefused,
		"capacity": power.ErrCapacity, "unsupported": power.ErrUnsupported, "error": errors.New("?"),
		"unclear": fmt.Errorf("%w: %w", power.ErrUnreachable, power.ErrAmbiguous),
	} {
		if got := class(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

// TestStepsTellWhatIsNew: of a pool that stands still, nothing is written; of
// trouble its beginning, and once a minute.
func TestStepsTellWhatIsNew(t *testing.T) {
	begin := time.Date(2026, 3, 29, 2, 0, 0, 0, time.UTC)
	tl := &told{phases: map[string]pool.Phase{}, want: -1}
	steady := control.Report{Gen: 7, Decision: pool.Decision{Want: 1, Hosts: []pool.Status{{ID: "a", Phase: pool.Ready}, {ID: "b", Phase: pool.Off}}}}
	acted := steady
	acted.Decision.Hosts = []pool.Status{{ID: "a", Phase: pool.Draining, Why: "ineligible"}, {ID: "b", Phase: pool.Off}}
	acted.Outcomes = []control.Outcome{
		{Action: pool.Action{Host: "a", Do: pool.Cordon, Why: "surplus"}, Done: true},
		{Action: pool.Action{Host: "b", Do: pool.TurnOn, Why: "wanted"}, Err: power.ErrRefused},
		{Action: pool.Action{Host: "c", Do: pool.TurnOn, Why: "wanted"}, Err: power.ErrAmbiguous},
	}
	acted.Learned = []pool.Sample{{Host: "a", Stage: pool.StageBoot, Took: 31250 * time.Millisecond}}
	for i, tt := range []struct {
		report control.Report
		err    error
		after  time.Duration
		want   string // of the last line
		lines  int
	}{
		{steady, nil, 0, `"phases":[{"host":"a","to":"ready"`, 1},
		{steady, nil, time.Second, "", 0},
		{acted, nil, 2 * time.Second, `"from":"ready","to":"draining"`, 1},
		{control.Report{}, errors.New("Nomad is away"), 3 * time.Second, `"error":"Nomad is away"`, 1},
		{control.Report{}, errors.New("Nomad is away"), 4 * time.Second, "", 0},
		{control.Report{}, errors.New(strings.Repeat("x", 1<<20)), 64 * time.Second, `xxx..."`, 1},
		{acted, nil, 65 * time.Second, `"want":1`, 1}, // it decides again
	} {
		lines := tl.next("p", tt.report, tt.err, begin.Add(tt.after))
		text, err := encodeSteps(lines, 0)
		if err != nil || len(lines) != tt.lines || !strings.Contains(string(text), tt.want) || len(text) > 4<<10 {
			t.Errorf("%d: %d lines, %v: %s", i, len(lines), err, text)
		}
		if i == 2 {
			if missing := lacks(string(text), `"result":"done"`, `"result":"failed"`, `"result":"unclear"`, `"stage":"boot","took_s":31.25`); missing != "" {
				t.Errorf("%s is not in %s", missing, text)
			}
		}
	}
}

// TestStepsOfAPoolThatIsHuge: its first tick is several lines.
func TestStepsOfAPoolThatIsHuge(t *testing.T) {
	var r control.Report
	for i := range 10_000 {
		r.Decision.Hosts = append(r.Decision.Hosts, pool.Status{ID: fmt.Sprint("h", i), Phase: pool.Off})
	}
	path := filepath.Join(t.TempDir(), "steps.jsonl")
	l := newSteps(jsonl.Config{Path: path}, hclog.NewNullLogger())
	l.told("p", r, nil)
	l.close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hosts := 0
	for line := range strings.Lines(string(text)) {
		if len(line) > 256<<10 {
			t.Errorf("a line has %d bytes", len(line))
		}
		hosts += strings.Count(line, `"host":`)
	}
	if hosts != 10_000 {
		t.Errorf("it tells of %d hosts", hosts)
	}
	var none *steps
	none.told("p", r, nil)
	none.close()
}
