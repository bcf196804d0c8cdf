package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/mtls"
	"github.com/gpupool/gpupool/internal/mtls/mtlstest"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
	"github.com/gpupool/gpupool/internal/promrange"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
)

// snapshots serves one node's snapshot over mutual TLS, to those with a token.
type snapshots struct {
	mu sync.Mutex
	s  fleet.Snapshot
}

func (h *snapshots) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.URL.Path != fleet.SnapshotPath || r.Header.Get("Authorization") != "Bearer agent-secret" {
		http.Error(w, "", http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(h.s)
}

// serve puts an agent on loopback and into Consul.
func (h *snapshots) serve(t *testing.T, ca *mtlstest.CA, c *consulapi.Client) {
	t.Helper()
	config, err := mtls.Server(ca.Issue(t, t.TempDir(), fleet.Service), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, TLSConfig: config, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	err = c.Agent().ServiceRegister(&consulapi.AgentServiceRegistration{
		ID: "gpupool-agent-gpu-1", Name: fleet.Service, Address: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Meta: map[string]string{"node": "gpu-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The whole way: a real Nomad with a host that has GPUs and a job on them, its
// agent found through a real Consul and asked over mutual TLS, and queries as
// policies have them.
func TestWholeWay(t *testing.T) {
	consulAgent := consultest.Start(t)
	server := nomadtest.Start(t, "")
	server.GPUClient("gpu-1", "count 2")
	count, nodePool, id, kind, gpus := 3, "gpu", "chat", "service", uint64(1)
	cpu, memory := 10, 10
	group := nomadapi.NewTaskGroup("web", count)
	group.AddTask(&nomadapi.Task{
		Name: "server", Driver: "raw_exec", Config: map[string]any{"command": "/bin/sleep", "args": []string{"600"}},
		Resources: &nomadapi.Resources{CPU: &cpu, MemoryMB: &memory, Devices: []*nomadapi.RequestedDevice{{Name: "nvidia/gpu", Count: &gpus}}},
	})
	job := &nomadapi.Job{ID: &id, Name: &id, Type: &kind, NodePool: &nodePool, Datacenters: []string{"*"}, TaskGroups: []*nomadapi.TaskGroup{group}}
	if _, _, err := server.API().Jobs().Register(job, nil); err != nil {
		t.Fatal(err)
	}

	v := func(x float64) fleet.Value { return fleet.Value{Quality: fleet.QualityOK, Value: &x} }
	agent := &snapshots{s: fleet.Snapshot{
		Schema: fleet.Schema, Node: "gpu-1", At: time.Now(), Driver: fleet.Driver{State: fleet.DriverOK},
		GPUs:      []fleet.GPU{{Index: 0, UUID: "GPU-0", State: fleet.StateOK, Busy: v(0.9)}, {Index: 1, UUID: "GPU-1", State: fleet.StateOK, Busy: v(0.5)}},
		Instances: &fleet.Instances{Known: true},
	}}
	for i := range 2 {
		agent.s.Instances.List = append(agent.s.Instances.List, fleet.Instance{
			ID: fmt.Sprint(i), Namespace: "default", Job: "chat", Group: "web", Alloc: fmt.Sprint(i), State: fleet.Serving,
			Load: map[fleet.Signal]fleet.Value{fleet.Running: v(8), fleet.Waiting: v(float64(3 * i)), fleet.Slots: v(8)},
		})
	}
	ca := mtlstest.NewCA(t, "agents")
	agent.serve(t, ca, consulAgent.Client())
	own := ca.Issue(t, t.TempDir(), "autoscaler")
	t.Setenv("AGENT_TOKEN", "agent-secret")

	p := newPlugin(hclog.NewNullLogger())
	defer p.stop()
	err := p.SetConfig(map[string]string{
		"pools": write(t, "pools.hcl", strings.Replace(poolsFile, `host "a"`, `host "gpu-1"`, 1)), "sample": "1s", "listen": "off",
		"nomad_address": server.Addr, "consul_address": consulAgent.Addr,
		"agent_tls": "true", "agent_ca_file": own.CA, "agent_cert_file": own.Cert, "agent_key_file": own.Key, "agent_token": "env:AGENT_TOKEN",
	})
	if err != nil {
		t.Fatal(err)
	}
	wants := map[string]float64{
		demandQuery: 3, `allocated_gpus{pool="h100"}`: 2, `queued_gpus{pool="h100"}`: 1, `hosts_ready{pool="h100"}`: 1,
		`gpu_busy_ratio{pool="h100"}`: 0.7, `agent_coverage_ratio{pool="h100"}`: 1,
		`instances_wanted{job="chat"}`: 3, `instances_running{job="chat"}`: 2, `instances_queued{job="chat"}`: 1, `instances_ready{job="chat"}`: 2,
		`instance_demand{job="chat"}`: 19, `instance_load{job="chat"}`: 1 + 11.0/8, `instances_needed{job="chat"}`: 19.0 / 8,
	}
	await := func(query string, want float64) {
		t.Helper()
		var got float64
		var err error
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if got, err = one(t, p, query); err == nil && math.Abs(got-want) < 1e-9 {
				return
			}
		}
		t.Errorf("%s is %v, %v; want %v", query, got, err, want)
	}
	for query, want := range wants {
		await(query, want)
	}
	// An instance is not seen any more though Nomad says that it runs: what is
	// left is not the load of the job.
	agent.mu.Lock()
	agent.s.Instances.List = agent.s.Instances.List[:1]
	agent.mu.Unlock()
	time.Sleep(3 * time.Second)
	if got, err := one(t, p, `instance_demand{job="chat"}`); err != nil || got != 19 {
		running, runErr := one(t, p, `instances_running{job="chat"}`)
		t.Errorf("held, the demand is %v, %v; Nomad has %v running, %v", got, err, running, runErr)
	}
	// The demand goes into Consul when the minute is over.
	p.now.keep.round(t.Context(), p.now.book, time.Now().Add(time.Minute))
	for _, name := range []string{"demand_gpus.h100", "instance_demand.default.chat"} {
		keys, _, err := consulAgent.Client().KV().Keys("gpupool/v1/history/"+name+"/", "", nil)
		if err != nil || len(keys) == 0 {
			t.Errorf("the history of %s: %q, %v", name, keys, err)
		}
	}
}

// A month in a real Prometheus is there at once.
func TestRealPrometheus(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "month.txt")
	f, err := os.Create(text)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, "# TYPE gpupool_demand_gpus gauge")
	end := time.Now().Add(-10 * time.Minute).Truncate(time.Minute)
	for at := end.Add(-30 * 24 * time.Hour); at.Before(end); at = at.Add(30 * time.Second) {
		// One sample begins the minute, the other is its middle: what is read as
		// of its end is the mean of the middle and of the beginning of the next.
		fmt.Fprintf(w, "gpupool_demand_gpus{pool=%q,instance=%q} %d %d\n", "h100", "a", at.Unix()/3600%24, at.Unix())
	}
	fmt.Fprintln(w, "# EOF")
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	tool := queuetest.Program(t, "promtool")
	if out, err := exec.Command(tool, "tsdb", "create-blocks-from", "--max-block-duration=720h", "openmetrics", text, data).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := queuetest.Loopback(queuetest.FreePort(t))
	queuetest.Start(t, queuetest.Spec{
		Args: []string{
			queuetest.Program(t, "prometheus"), "--config.file", write(t, "prometheus.yml", "global: {}\n"), "--web.listen-address", addr,
			"--storage.tsdb.path", data, "--storage.tsdb.retention.time", "60d", "--log.level", "warn",
		},
		Ready: func() error {
			resp, err := http.Get("http://" + addr + "/-/ready")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		},
	})
	s := recording(t, &archive{prom: &promrange.Config{URL: "http://" + addr, Query: defaultQuery}})
	now := time.Now()
	one := s.sample(t, now, 5)
	began := time.Now()
	s.keep.load(t.Context(), one, now)
	t.Logf("28 days read in %s", time.Since(began).Round(time.Millisecond))
	if !one.loaded {
		t.Fatal("it was not read")
	}
	got := s.points(t, now.Add(-28*24*time.Hour), now)
	if len(got) < 28*24*60-30 {
		t.Errorf("%d of %d minutes", len(got), 28*24*60)
	}
	for _, p := range got[:len(got)-1] {
		if want := float64(p.Timestamp.Add(-time.Minute).Unix() / 3600 % 24); p.Timestamp.Minute() != 0 && p.Value != want {
			t.Fatalf("%s is %v, want %v", p.Timestamp, p.Value, want)
		}
	}
}
