package serve_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// withInstances is a host with one instance that serves and one that warms.
func withInstances() fleet.Snapshot {
	s := busyHost()
	v := func(x float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &x} }
	stale := v(9)
	stale.Quality = fleet.QualityStale
	took := 43.5
	s.Instances = &fleet.Instances{
		Known: true,
		List: []fleet.Instance{
			{ID: "i1", Namespace: "default", Job: "chat", Group: "serve", Task: "serve", Alloc: "a1", Engine: "vllm", Model: "m\xff", Address: "10.0.0.7:1", Service: "chat-warm",
				State: fleet.Serving, For: 12, Changes: 3, WarmUp: &took,
				Load: map[fleet.Signal]fleet.Value{fleet.Running: v(3), fleet.TTFTP95: v(0.25), fleet.KVUsed: stale}},
			{ID: "i2", Job: "chat", Alloc: "a2", State: fleet.Warming},
		},
		WarmUps: []fleet.WarmUp{{Model: "m", GPU: "H100", From: fleet.Cold, Count: 2, Median: 40, P95: 43.5}},
	}
	return s
}

func TestInstanceMetrics(t *testing.T) {
	h := serve.Handler(serve.Config{Snapshot: withInstances, Instances: serve.Instances{
		Flaws: func() map[string]map[engine.Flaw]uint64 {
			return map[string]map[engine.Flaw]uint64{"i1": {engine.FlawScrape: 2}}
		},
		Consul: func() (bool, uint64, uint64) { return true, 1, 4 },
	}})
	text := get(h, "GET", "/metrics").Body.String()
	for _, want := range []string{
		"gpupool_instances_known 1",
		"gpupool_instances_consul_writes_total 4",
		`gpupool_instance_info{instance_id="i1",namespace="default",job="chat",group="serve",task="serve",alloc_id="a1",engine="vllm",model="m?",service="chat-warm",address="10.0.0.7:1"} 1`,
		`gpupool_instance_state{instance_id="i1",state="serving"} 1`,
		`gpupool_instance_state{instance_id="i1",state="warm"} 0`,
		`gpupool_instance_state{instance_id="i2",state="warming"} 1`,
		`gpupool_instance_state_changes_total{instance_id="i1"} 3`,
		`gpupool_instance_warm_up_seconds{instance_id="i1"} 43.5`,
		`gpupool_instance_running_requests{instance_id="i1"} 3`,
		`gpupool_instance_ttft_seconds{instance_id="i1",quantile="0.95"} 0.25`,
		`gpupool_instance_flaws_total{instance_id="i1",flaw="scrape"} 2`,
		`gpupool_warm_up_seconds{model="m",gpu_name="H100",from="cold",quantile="0.5"} 40`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("metrics do not have %s", want)
		}
	}
	for _, absent := range []string{"gpupool_instance_waiting_requests{", "gpupool_instance_kv_used_ratio{", `gpupool_instance_warm_up_seconds{instance_id="i2"}`} {
		if strings.Contains(text, absent) {
			t.Errorf("metrics have %s, which is not known now", absent)
		}
	}
	if text := get(handler(busyHost(), ""), "GET", "/metrics").Body.String(); strings.Contains(text, "gpupool_instance") {
		t.Error("an agent that does not look for instances has metrics of them")
	}
}

// TestAdminIsOffAndGuarded: nothing can be changed unless that was turned on, and
// then only with the token.
func TestAdminIsOffAndGuarded(t *testing.T) {
	const path = "/v1/instances/i1/drain"
	if code := get(handler(withInstances(), ""), "POST", path).Code; code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		t.Errorf("an agent that only reads answers %d", code)
	}
	asked := 0
	h := serve.Handler(serve.Config{Snapshot: withInstances, Token: func() string { return "secret" }, Instances: serve.Instances{
		Admin: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }),
	}})
	if code := get(h, "POST", path).Code; code != http.StatusUnauthorized || asked != 0 {
		t.Errorf("without the token it answers %d after %d acts", code, asked)
	}
	if code := get(h, "GET", path, "Authorization", "Bearer secret").Code; code != http.StatusMethodNotAllowed && code != http.StatusNotFound || asked != 0 {
		t.Errorf("to GET it answers %d after %d acts", code, asked)
	}
	if code := get(h, "POST", path, "Authorization", "Bearer secret").Code; code != http.StatusOK || asked != 1 {
		t.Errorf("with the token it answers %d after %d acts", code, asked)
	}
}
