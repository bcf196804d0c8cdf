package serve_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/fleet"
)

const alloc = "7a5b3c1d-0e2f-4a6b-8c9d-0123456789ab"

// busyHost has a good GPU, a lost one that never told its name, and a process
// whose task chose its name to break something.
func busyHost() fleet.Snapshot {
	ok := func(x float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &x} }
	lost := fleet.Value{Quality: fleet.QualityLost}
	age := 0.25
	memory := func(n int64) *int64 { return &n }
	return fleet.Snapshot{
		Schema: fleet.Schema,
		Node:   "gpu-01",
		At:     time.Date(2026, 11, 22, 7, 0, 0, 0, time.UTC),
		Agent:  fleet.Agent{Version: "1.2.3", Uptime: 60},
		Driver: fleet.Driver{State: fleet.DriverOK, Version: "570.86.15", Epoch: 2},
		GPUs: []fleet.GPU{
			{
				Index: 0, UUID: "GPU-1", Name: "NVIDIA L40S", PCI: "00000000:01:00.0", State: fleet.StateOK, Age: &age,
				Health: fleet.Health{Verdict: fleet.HealthOK},
				Busy:   ok(0.87), MemoryUsed: ok(100), MemoryReserved: fleet.Value{Quality: fleet.QualityUnsupported},
				MemoryTotal: ok(200), Power: ok(300), Temperature: fleet.Value{Quality: fleet.QualityStale, Value: &age, Age: 99},
				Processes: fleet.Processes{Quality: fleet.QualityOK, Total: 4, Outside: 1, List: []fleet.Process{
					{PID: 1, Comm: "miner", Memory: memory(5)},
					{PID: 2, Alloc: alloc, Task: "a\"}\n# x", Memory: memory(60)},
					{PID: 3, Alloc: alloc, Task: "a\"}\n# x", Memory: memory(30)},
					{PID: 4, Alloc: alloc, Task: "untold"},
				}},
			},
			{
				Index: 1, State: fleet.StateLost, Why: "fell off the bus",
				Health: fleet.Health{Verdict: fleet.HealthFailed, Why: []string{"lost"}, Action: fleet.ActionCycle},
				Busy:   lost, MemoryUsed: lost, MemoryReserved: lost, MemoryTotal: lost, Power: lost, Temperature: lost,
				Processes: fleet.Processes{Quality: fleet.QualityLost},
			},
		},
		Outside: fleet.Outside{Known: true, GPUs: 1, Processes: 1},
	}
}

func handler(s fleet.Snapshot, token string) http.Handler {
	cfg := serve.Config{
		Snapshot: func() fleet.Snapshot { return s },
		Consul:   func() (bool, uint64) { return true, 3 },
	}
	if token != "" {
		cfg.Token = func() string { return token }
	}
	return serve.Handler(cfg)
}

func get(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestSnapshotIsGathered: what the agent serves is what its readers get.
func TestSnapshotIsGathered(t *testing.T) {
	for _, token := range []string{"", "secret"} {
		server := httptest.NewServer(handler(busyHost(), token))
		defer server.Close()
		agents := map[string]string{"gpu-01": server.Listener.Addr().String()}
		got := fleet.Gather(t.Context(), fleet.Config{Token: token}, agents)["gpu-01"]
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		if diff := cmp.Diff(busyHost(), got.Snapshot); diff != "" {
			t.Errorf("snapshot differs (-want +got):\n%s", diff)
		}
	}
}

func TestToken(t *testing.T) {
	h := handler(busyHost(), "secret")
	for _, tt := range []struct {
		path, authorization string
		want                int
	}{
		{"/healthz", "", 200},
		{"/metrics", "", 401},
		{"/v1/snapshot", "", 401},
		{"/v1/snapshot", "Bearer Secret", 401},
		{"/v1/snapshot", "Bearer secrets", 401},
		{"/v1/snapshot", "secret", 401},
		{"/v1/snapshot", "Bearer secret", 200},
		{"/metrics", "Bearer secret", 200},
	} {
		if w := get(h, "GET", tt.path, "Authorization", tt.authorization); w.Code != tt.want {
			t.Errorf("GET %s with %q: %d, want %d", tt.path, tt.authorization, w.Code, tt.want)
		}
	}
}

func TestReadOnly(t *testing.T) {
	h := handler(busyHost(), "")
	for _, path := range []string{"/healthz", "/metrics", "/v1/snapshot"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			if w := get(h, method, path); w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d, want 405", method, path, w.Code)
			}
		}
	}
	for _, path := range []string{"/", "/v1/", "/v1/snapshot/x", "/debug/pprof/"} {
		if w := get(h, "GET", path); w.Code != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, w.Code)
		}
	}
}

func TestHealthz(t *testing.T) {
	for state, want := range map[fleet.DriverState]string{
		fleet.DriverOK:       `{"status":"ok","driver":"ok","usable_gpus":1}`,
		fleet.DriverStarting: `{"status":"ok","driver":"starting","usable_gpus":1}`,
		fleet.DriverNone:     `{"status":"ok","driver":"no-gpu","usable_gpus":1}`,
	} {
		s := busyHost()
		s.Driver.State = state
		if w := get(handler(s, ""), "GET", "/healthz"); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("healthz is %d %s, want %s", w.Code, w.Body, want)
		}
	}
}

// scrape parses the metrics as Prometheus does, into name{label="value"}.
func scrape(t *testing.T, h http.Handler) map[string]float64 {
	t.Helper()
	w := get(h, "GET", "/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]float64{}
	for name, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			one := name + "{" + strings.Join(labels, ",") + "}"
			if _, twice := series[one]; twice {
				t.Errorf("%s is there twice", one)
			}
			series[one] = value(family.GetType(), m)
		}
	}
	return series
}

func value(kind dto.MetricType, m *dto.Metric) float64 {
	if kind == dto.MetricType_COUNTER {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}

func TestMetrics(t *testing.T) {
	got := scrape(t, handler(busyHost(), ""))
	for name := range got {
		if !strings.HasPrefix(name, "gpupool_") || strings.HasPrefix(name, "gpupool_agent_build_info") {
			delete(got, name)
		}
	}
	want := map[string]float64{
		`gpupool_agent_consul_registered{}`:                                                          1,
		`gpupool_agent_consul_errors_total{}`:                                                        3,
		`gpupool_driver_up{}`:                                                                        1,
		`gpupool_driver_epoch{}`:                                                                     2,
		`gpupool_driver_info{version="570.86.15"}`:                                                   1,
		`gpupool_outside_gpus{}`:                                                                     1,
		`gpupool_outside_processes{}`:                                                                1,
		`gpupool_gpu_sample_age_seconds{gpu="GPU-1"}`:                                                0.25,
		`gpupool_gpu_busy_ratio{gpu="GPU-1"}`:                                                        0.87,
		`gpupool_gpu_memory_used_bytes{gpu="GPU-1"}`:                                                 100,
		`gpupool_gpu_memory_total_bytes{gpu="GPU-1"}`:                                                200,
		`gpupool_gpu_power_watts{gpu="GPU-1"}`:                                                       300,
		`gpupool_gpu_processes{gpu="GPU-1",owner="allocation"}`:                                      3,
		`gpupool_gpu_processes{gpu="GPU-1",owner="outside"}`:                                         1,
		`gpupool_gpu_foreign_processes{gpu="GPU-1"}`:                                                 0,
		`gpupool_gpu_info{gpu="index:1",index="1",name="",pci=""}`:                                   1,
		`gpupool_allocation_gpu_memory_bytes{alloc_id="` + alloc + `",gpu="GPU-1",task="a\"}\n# x"}`: 90,
		`gpupool_gpu_info{gpu="GPU-1",index="0",name="NVIDIA L40S",pci="00000000:01:00.0"}`:          1,
	}
	for gpu, verdict := range map[string]fleet.Verdict{"GPU-1": fleet.HealthOK, "index:1": fleet.HealthFailed} {
		for _, v := range fleet.Verdicts {
			n := 0.0
			if v == verdict {
				n = 1
			}
			want[fmt.Sprintf(`gpupool_gpu_health{gpu=%q,verdict=%q}`, gpu, v)] = n
		}
		for _, a := range fleet.Actions[1:] {
			n := 0.0
			if a == fleet.ActionCycle && verdict == fleet.HealthFailed {
				n = 1
			}
			want[fmt.Sprintf(`gpupool_gpu_advice{action=%q,gpu=%q}`, a, gpu)] = n
		}
	}
	for _, state := range fleet.States {
		for gpu, in := range map[string]fleet.State{"GPU-1": fleet.StateOK, "index:1": fleet.StateLost} {
			v := 0.0
			if state == in {
				v = 1
			}
			want[fmt.Sprintf(`gpupool_gpu_state{gpu=%q,state=%q}`, gpu, state)] = v
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
}

// TestUnknownIsAbsent: there is no 0 in place of what is not known.
func TestUnknownIsAbsent(t *testing.T) {
	s := busyHost()
	s.Driver = fleet.Driver{State: fleet.DriverNone, Why: "x"}
	s.Outside = fleet.Outside{Why: "x"}
	s.GPUs = s.GPUs[1:]
	for name, v := range scrape(t, handler(s, "")) {
		for _, absent := range []string{"outside", "busy", "memory", "power", "temperature", "processes{", "sample_age"} {
			if strings.HasPrefix(name, "gpupool_") && strings.Contains(name, absent) {
				t.Errorf("%s is %g, want it to be absent", name, v)
			}
		}
	}
}

func TestRequestsAtATimeAreBounded(t *testing.T) {
	entered, release := make(chan struct{}, 1000), make(chan struct{})
	h := serve.Handler(serve.Config{Snapshot: func() fleet.Snapshot {
		entered <- struct{}{}
		<-release
		return busyHost()
	}})
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { get(h, "GET", "/v1/snapshot") })
	}
	for range 64 {
		<-entered
	}
	if w := get(h, "GET", "/healthz"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("the 65th request at a time: %d, want 503", w.Code)
	}
	close(release)
	wg.Wait()
	if w := get(h, "GET", "/healthz"); w.Code != 200 {
		t.Errorf("afterwards: %d, want 200", w.Code)
	}
}

func TestSnapshotIsJSON(t *testing.T) {
	w := get(handler(busyHost(), ""), "GET", "/v1/snapshot")
	if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("headers are %v", w.Header())
	}
	var s struct {
		GPUs []map[string]any `json:"gpus"`
	}
	body, _ := io.ReadAll(w.Body)
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	if busy := s.GPUs[1]["busy_ratio"].(map[string]any); len(busy) != 1 || busy["quality"] != "lost" {
		t.Errorf("busy ratio of the lost GPU is %v, want its quality alone", busy)
	}
}
