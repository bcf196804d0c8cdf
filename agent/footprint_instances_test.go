package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/nvmltest"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/fleet"
)

// BenchmarkFootprintWithInstances is BenchmarkFootprint with a model server on
// each of the eight GPUs, whose expositions have the length of vLLM's, and
// with a real Consul. What Nomad says is made up, and said once: nothing changes.
func BenchmarkFootprintWithInstances(b *testing.B) {
	state := nvmltest.State{"count": "8"}
	var allocs []*api.Allocation
	for i := range 8 {
		state[nvmltest.GPU(i, "util")] = "90"
		state[nvmltest.GPU(i, "procs")] = fmt.Sprintf("%d:70000", os.Getpid())
		allocs = append(allocs, serving(b, i))
	}
	nomad := httptest.NewServer(nomadSaying(allocs))
	b.Cleanup(nomad.Close)
	h := on(b, state)
	h.trace = "" // is no part of a driver
	h.args = []string{"-period", "1s", "-consul", consultest.Start(b).Addr, "-nomad", nomad.URL}
	h.start()
	h.sees("eight instances that are ready", func(s fleet.Snapshot) bool {
		ready := 0
		for _, i := range s.Instances.List {
			if i.State.Ready() {
				ready++
			}
		}
		return ready == 8
	})
	h.footprint()
}

// serving is an allocation of a job, with a server that says as much as vLLM.
func serving(b *testing.B, n int) *api.Allocation {
	b.Helper()
	var text strings.Builder
	for _, name := range []string{"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"} {
		fmt.Fprintf(&text, "# TYPE %s gauge\n%s{engine=\"0\",model_name=\"m\"} 0.5\n", name, name)
	}
	text.WriteString("# TYPE vllm:engine_sleep_state gauge\nvllm:engine_sleep_state{engine=\"0\",model_name=\"m\",sleep_state=\"awake\"} 1.0\n")
	for _, name := range []string{"time_to_first_token", "inter_token_latency", "request_queue_time", "e2e_request_latency", "request_prefill_time", "request_decode_time", "request_inference_time"} {
		fmt.Fprintf(&text, "# TYPE vllm:%s_seconds histogram\n", name)
		for le := range 30 {
			fmt.Fprintf(&text, "vllm:%s_seconds_bucket{engine=\"0\",le=\"%d.0\",model_name=\"m\"} %d.0\n", name, le, le)
		}
		fmt.Fprintf(&text, "vllm:%s_seconds_bucket{engine=\"0\",le=\"+Inf\",model_name=\"m\"} 30.0\nvllm:%s_seconds_count{engine=\"0\",model_name=\"m\"} 30.0\n", name, name)
	}
	for i := 0; text.Len() < 100<<10; i++ {
		fmt.Fprintf(&text, "vllm:request_params_max_tokens_bucket{engine=\"0\",le=\"%d.0\",model_name=\"m\"} 30.0\n", i)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/health":
		case "/metrics":
			_, _ = w.Write([]byte(text.String()))
		case "/v1/models":
			_, _ = w.Write([]byte(`{"data":[{"id":"m"}]}`))
		default:
			http.NotFound(w, r)
		}
	}))
	b.Cleanup(server.Close)
	host, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	number, _ := strconv.Atoi(port)
	job, group := "chat", "serve"
	return &api.Allocation{
		ID: fmt.Sprintf("8f2e0000-0000-4000-8000-%012d", n), Namespace: "default", JobID: job, TaskGroup: group,
		Job: &api.Job{ID: &job, TaskGroups: []*api.TaskGroup{{Name: &group, Tasks: []*api.Task{{
			Name: "serve", Config: map[string]any{"image": "vllm/vllm-openai"}, Meta: map[string]string{},
		}}}}},
		DesiredStatus: "run", ClientStatus: "running",
		TaskStates: map[string]*api.TaskState{"serve": {State: "running", StartedAt: time.Now()}},
		AllocatedResources: &api.AllocatedResources{
			Tasks: map[string]*api.AllocatedTaskResources{"serve": {Devices: []*api.AllocatedDeviceResource{
				{Vendor: "nvidia", Type: "gpu", Name: "H100", DeviceIDs: []string{fmt.Sprintf("GPU-fa4e%04d-0000-4000-8000-000000000000", n)}}}}},
			Shared: api.AllocatedSharedResources{Ports: []api.PortMapping{{Label: "http", Value: number, HostIP: host}}},
		},
	}
}

// nomadSaying answers what the agent asks Nomad: once at once, and then not
// before the wait is over.
func nomadSaying(allocs []*api.Allocation) http.Handler {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, v any) {
		w.Header().Set("X-Nomad-Index", "7")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, _ *http.Request) {
		say(w, []*api.NodeListStub{{ID: "n", Name: "gpu-01", Status: "ready"}})
	})
	mux.HandleFunc("GET /v1/node/n/allocations", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("index") != "" && r.URL.Query().Get("index") != "0" {
			select {
			case <-r.Context().Done():
			case <-time.After(time.Minute):
			}
		}
		say(w, allocs)
	})
	return mux
}
