package instance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/engine/enginetest"
	"github.com/gpupool/gpupool/internal/fleet"
)

// site is a host whose allocations a test sets, and a watcher on it.
type site struct {
	*testing.T
	*Watcher
	stop func()

	mu      sync.Mutex
	allocs  []*api.Allocation
	err     error
	index   uint64
	changed chan struct{}
	gpus    []fleet.GPU
}

// quick are rules in which things happen in tenths of a second.
func quick() Rules {
	r := DefaultRules()
	r.BadFor, r.SilentFor, r.Dwell, r.FullAfter = 100*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
	r.FirstHold, r.LastHold = 200*time.Millisecond, time.Second
	return r
}

// host starts a watcher on a host with these allocations.
func host(t *testing.T, allocs ...*api.Allocation) *site {
	t.Helper()
	s := &site{T: t, allocs: allocs, index: 1, changed: make(chan struct{}), gpus: []fleet.GPU{
		{UUID: "GPU-1", Name: "NVIDIA H100 80GB HBM3", State: fleet.StateOK}, {UUID: "GPU-2", State: fleet.StateOK}, {UUID: "GPU-3", State: fleet.StateLost}}}
	s.start(nil)
	t.Cleanup(func() { s.stop() })
	return s
}

// start runs a watcher, with what Consul has from an earlier one.
func (s *site) start(left map[string]register.Entry) {
	s.Watcher = New(Config{
		Allocs: s.read, Servers: engine.NewClient(engine.ClientConfig{Timeout: time.Second}), GPUs: s.cards,
		Pattern: "{job}-warm", Period: 20 * time.Millisecond, Rules: quick(), Log: slog.New(slog.DiscardHandler),
	})
	s.Adopt(left, time.Now())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Watcher.Run(ctx)
	}()
	s.stop = func() { cancel(); <-done }
}

func (s *site) cards() []fleet.GPU {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gpus)
}

// read is what Nomad says, as a blocking query.
func (s *site) read(ctx context.Context, index uint64) ([]*api.Allocation, uint64, error) {
	s.mu.Lock()
	now, wait := s.index, s.changed
	s.mu.Unlock()
	if index == now {
		select {
		case <-wait:
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allocs, s.index, errors.Join(s.err, ctx.Err())
}

// set changes what Nomad says.
func (s *site) set(err error, allocs ...*api.Allocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allocs, s.err = allocs, err
	s.index++
	close(s.changed)
	s.changed = make(chan struct{})
}

// at is an allocation whose server listens at an address.
func at(address string, change func(a *api.Allocation, t *api.Task)) *api.Allocation {
	return alloc(func(a *api.Allocation, t *api.Task) {
		where := netip.MustParseAddrPort(address)
		a.AllocatedResources.Shared.Ports = []api.PortMapping{{Label: "http", Value: int(where.Port()), HostIP: where.Addr().String()}}
		a.TaskStates["serve"].StartedAt = time.Now()
		if change != nil {
			change(a, t)
		}
	})
}

func pending(a *api.Allocation, _ *api.Task) { a.TaskStates = nil }

func (s *site) eventually(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("it never came to it that %s; the instances are %+v", what, s.Instances(time.Now()))
		}
	}
}

// one is the only instance, as readers see it; its zero value if there is
// none.
func (s *site) one() fleet.Instance {
	if list := s.Instances(time.Now()).List; len(list) == 1 {
		return list[0]
	}
	return fleet.Instance{}
}

func (s *site) becomes(state fleet.InstanceState) fleet.Instance {
	s.Helper()
	s.eventually("it is "+string(state), func() bool { return s.one().State == state })
	return s.one()
}

// entry is what Consul is to know of the only instance, nil if nothing.
func (s *site) entry() *register.Entry {
	if list, _ := s.Entries(); len(list) == 1 {
		return &list[0]
	}
	return nil
}

// late is a server that listens when it is told to.
type late struct {
	*httptest.Server
	address string
}

func lateServer(t *testing.T, h http.Handler) *late {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &late{httptest.NewUnstartedServer(h), l.Addr().String()}
	l.Close()
	return s
}

func (l *late) listen(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	l.Listener = listener
	l.Start()
	t.Cleanup(l.Close)
}

func ask(t *testing.T, url string, tokens string) {
	t.Helper()
	resp, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(`{"max_tokens":`+tokens+`}`))
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != 200 {
		t.Errorf("a request answers %s", resp.Status)
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	server := lateServer(t, enginetest.New(enginetest.Config{Model: "demo", Slots: 1, Token: 20 * time.Millisecond}))
	s := host(t, at(server.address, pending))
	i := s.becomes(fleet.Cold)
	if s.entry() != nil || i.Engine != "vllm" || i.Service != "chat-warm" || len(i.Load) != 0 || i.GPUName != "NVIDIA H100 80GB HBM3" {
		t.Errorf("cold, it is %+v in Consul and %+v", s.entry(), i)
	}

	running := at(server.address, nil)
	s.set(nil, running)
	s.becomes(fleet.Warming)
	if e := s.entry(); e == nil || e.Status != "critical" || !slices.Contains(e.Tags, "warming") {
		t.Errorf("warming, it is %+v in Consul", e)
	}
	server.listen(t)
	i = s.becomes(fleet.Warm)
	if e := s.entry(); e.Status != "passing" || e.Name != "chat-warm" || !slices.Contains(e.Tags, "warm") || e.Meta["model"] != "demo" ||
		e.Meta["warm_up_s"] == "" || e.Meta["gpus"] != "GPU-1,GPU-2" || e.Address != "127.0.0.1" || e.Port == 0 {
		t.Errorf("warm, it is %+v in Consul", e)
	}
	if i.Model != "demo" || i.WarmUp == nil || *i.WarmUp <= 0 || i.Changes != 2 {
		t.Errorf("warm, it is %+v", i)
	}
	before := s.entry()

	go ask(t, server.URL, "25")
	s.becomes(fleet.Serving)
	go ask(t, server.URL, "25")
	i = s.becomes(fleet.Saturated)
	if v, known := i.Fresh(fleet.Waiting); !known || v != 1 {
		t.Errorf("saturated, it has %+v waiting", i.Load[fleet.Waiting])
	}
	if _, known := i.Fresh(fleet.Slots); known {
		t.Error("vLLM does not tell its slots, and they are known")
	}
	s.becomes(fleet.Warm)
	if e := s.entry(); e.Status != before.Status || !slices.Equal(e.Tags, before.Tags) || e.Text != before.Text {
		t.Errorf("its load changed what Consul is told, from %+v to %+v", before, e)
	}
	if w := s.Instances(time.Now()).WarmUps; len(w) != 1 || w[0].Model != "demo" || w[0].GPU != "NVIDIA H100 80GB HBM3" || w[0].Count != 1 {
		t.Errorf("learned %+v", w)
	}

	stopping := *running
	stopping.DesiredStatus = api.AllocDesiredStatusStop
	s.set(nil, &stopping)
	s.becomes(fleet.Draining)
	if e := s.entry(); e.Status != "critical" || e.Maintenance != "Nomad stops the allocation" {
		t.Errorf("draining, it is %+v in Consul", e)
	}
	over := stopping
	over.ClientStatus = api.AllocClientStatusComplete
	s.set(nil, &over)
	s.eventually("it is gone", func() bool { return len(s.Instances(time.Now()).List) == 0 && s.entry() == nil })
	if list := s.Instances(time.Now()); !list.Known || len(list.WarmUps) != 1 {
		t.Errorf("after the end there are %+v", list)
	}
}

func TestItIsFoundOutWhatItIs(t *testing.T) {
	t.Parallel()
	server := lateServer(t, enginetest.New(enginetest.Config{}))
	s := host(t, at(server.address, func(_ *api.Allocation, t *api.Task) { t.Config = map[string]any{"command": "serve.sh"} }))
	time.Sleep(100 * time.Millisecond)
	if list := s.Instances(time.Now()).List; len(list) != 0 || s.entry() != nil {
		t.Errorf("a task that may be anything is taken for %+v", list)
	}
	server.listen(t)
	if i := s.becomes(fleet.Warm); i.Engine != "vllm" {
		t.Errorf("it is taken for %q", i.Engine)
	}
}

func TestTheEngineDies(t *testing.T) {
	t.Parallel()
	vllm := enginetest.New(enginetest.Config{})
	server := lateServer(t, vllm)
	server.listen(t)
	s := host(t, at(server.address, nil))
	s.becomes(fleet.Warm)
	vllm.Kill()
	s.becomes(fleet.Unhealthy)
	if e := s.entry(); e.Status != "critical" {
		t.Errorf("unhealthy, it is %+v in Consul", e)
	}
	// Its task is started anew, at once: the state of before is not of it.
	s.set(nil, at(server.address, nil))
	s.becomes(fleet.Warming)
}

func TestAGPUIsLost(t *testing.T) {
	t.Parallel()
	server := lateServer(t, enginetest.New(enginetest.Config{}))
	server.listen(t)
	s := host(t, at(server.address, nil))
	s.becomes(fleet.Warm)
	s.mu.Lock()
	s.gpus[1].State = fleet.StateLost
	s.mu.Unlock()
	if i := s.becomes(fleet.Unhealthy); !strings.Contains(i.Why, "GPU-2 is lost") {
		t.Errorf("why is %q", i.Why)
	}
	health := func(v fleet.Verdict) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gpus[1].State, s.gpus[1].Health = fleet.StateOK, fleet.Health{Verdict: v, Why: []string{"XID 48"}}
	}
	health(fleet.HealthDegraded)
	s.becomes(fleet.Warm)
	health(fleet.HealthFailed)
	if i := s.becomes(fleet.Unhealthy); i.Why != "GPU-2 has failed: XID 48" {
		t.Errorf("why is %q", i.Why)
	}
}

func TestWarmUpRequest(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	vllm := enginetest.New(enginetest.Config{})
	server := lateServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			body, _ := io.ReadAll(r.Body)
			if string(body) != `{"prompt":"hi"}` {
				t.Errorf("the warm-up request is %s", body)
			}
			if asked.Add(1) == 1 {
				time.Sleep(200 * time.Millisecond)
			}
		}
		vllm.ServeHTTP(w, httptest.NewRequest(r.Method, r.URL.String(), strings.NewReader(`{"max_tokens":1}`)))
	}))
	server.listen(t)
	configured := func(_ *api.Allocation, t *api.Task) {
		t.Meta["gpupool.warm_up_path"], t.Meta["gpupool.warm_up_body"] = "/v1/completions", `{"prompt":"hi"}`
	}
	s := host(t, at(server.address, configured))
	s.eventually("it is asked", func() bool { return asked.Load() == 1 })
	if state := s.one().State; state != fleet.Warming {
		t.Errorf("before the answer it is %s", state)
	}
	s.becomes(fleet.Warm)
	s.set(nil, at(server.address, configured)) // a new process
	s.eventually("the new process is asked", func() bool { return asked.Load() == 2 })
	s.becomes(fleet.Warm)
	if n := asked.Load(); n != 2 {
		t.Errorf("two processes were sent %d requests", n)
	}
}

// TestRestart: the agent is started anew. What was passing stays so, and what
// an operator drained stays drained.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := lateServer(t, enginetest.New(enginetest.Config{Model: "demo"}))
	server.listen(t)
	running := at(server.address, nil)
	s := host(t, at(server.address, pending))
	s.becomes(fleet.Cold)
	s.set(nil, running)
	s.becomes(fleet.Warm)

	again := func() {
		before := *s.entry()
		s.stop()
		// Nomad is away while the agent starts.
		s.set(errors.New("no answer"), running)
		s.start(map[string]register.Entry{before.ID: before})
		s.eventually("it is known that Nomad does not answer", func() bool { return strings.Contains(s.Instances(time.Now()).Why, "no answer") })
		if list, all := s.Entries(); all || len(list) != 1 || list[0].Status != before.Status {
			t.Errorf("while Nomad does not answer, Consul is to know %+v (all: %v), was %+v", list, all, before)
		}
		s.set(nil, running)
		s.eventually("Nomad answers", func() bool {
			if e := s.entry(); e != nil && e.Status != before.Status {
				t.Fatalf("for a moment it was %+v", e)
			}
			return s.Instances(time.Now()).Known
		})
		for range 50 {
			after := *s.entry()
			if after.Status != before.Status || after.Maintenance != before.Maintenance || !slices.Equal(after.Tags, before.Tags) || after.Meta["warm_up_s"] != before.Meta["warm_up_s"] {
				t.Fatalf("after the restart it is %+v, was %+v", after, before)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	again()
	if w := s.Instances(time.Now()).WarmUps; len(w) != 1 {
		t.Errorf("what was learned is %+v", w)
	}
	if err := s.Drain(s.one().ID, "new cables"); err != nil {
		t.Fatal(err)
	}
	if i := s.becomes(fleet.Draining); i.Why != "drained by an operator: new cables" {
		t.Errorf("why is %q", i.Why)
	}
	again()
	if err := s.Undrain(s.one().ID); err != nil {
		t.Fatal(err)
	}
	s.becomes(fleet.Warm)

	// The task was started anew while the agent was away.
	before := *s.entry()
	s.stop()
	server.Close()
	s.set(nil, at(server.address, nil))
	s.start(map[string]register.Entry{before.ID: before})
	s.becomes(fleet.Warming)
}

func TestWhatIsLeftIsNotBelievedForEver(t *testing.T) {
	w := New(Config{Pattern: "{job}-warm", Period: time.Second, Log: slog.New(slog.DiscardHandler)})
	w.Adopt(map[string]register.Entry{"x": {ID: "x", Status: "passing"}}, time.Now().Add(-adoptFor-time.Second))
	if list, all := w.Entries(); all || len(list) != 1 || list[0].Status != "critical" {
		t.Errorf("Consul is to know %+v", list)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	server := lateServer(t, enginetest.New(enginetest.Config{}))
	server.listen(t)
	s := host(t, at(server.address, nil))
	s.becomes(fleet.Warm)
	s.Hold("the host goes down in 30 s")
	if i := s.one(); i.State != fleet.Draining || i.Why != "the host goes down in 30 s" {
		t.Errorf("at once it is %s: %s", i.State, i.Why)
	}
	s.Hold("")
	s.becomes(fleet.Warm)
}

func TestNomadIsAway(t *testing.T) {
	t.Parallel()
	vllm := enginetest.New(enginetest.Config{})
	server := lateServer(t, vllm)
	server.listen(t)
	running := at(server.address, nil)
	s := host(t, running)
	s.becomes(fleet.Warm)
	s.set(errors.New("no answer"), running)
	if list := s.Instances(time.Now().Add(forgetAfter + time.Minute)); list.Known || list.Why == "" || len(list.List) != 1 {
		t.Errorf("after a while the list is %+v", list)
	}
	if list := s.Instances(time.Now()); !list.Known {
		t.Errorf("at first the list is %+v", list)
	}
	vllm.Kill() // and is seen all the same
	s.becomes(fleet.Unhealthy)
}

// TestASnapshotOfAnyServerIsRead: whatever servers say, the snapshot is one that
// readers take.
func TestASnapshotOfAnyServerIsRead(t *testing.T) {
	t.Parallel()
	var absurd atomic.Int64
	server := lateServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			n := absurd.Add(1)
			fmt.Fprintf(w, "vllm:num_requests_running 1\nvllm:request_success_total %d\n# TYPE vllm:time_to_first_token_seconds histogram\n", n)
			fmt.Fprintf(w, "vllm:time_to_first_token_seconds_bucket{le=\"1e300\"} %d\nvllm:time_to_first_token_seconds_bucket{le=\"+Inf\"} %d\n", n, n)
		case "/v1/models":
			fmt.Fprintf(w, `{"data":[{"id":%q}]}`, strings.Repeat("m", 250))
		}
	}))
	server.listen(t)
	s := host(t, at(server.address, func(a *api.Allocation, _ *api.Task) {
		id := strings.Repeat("j", 2000)
		a.Job.ID, a.AllocatedResources.Tasks["serve"].Devices[0].DeviceIDs = &id, []string{"MIG-1"}
	}))
	s.mu.Lock()
	s.gpus[0].MIG.Devices = []fleet.MIGDevice{{UUID: "MIG-1"}}
	s.mu.Unlock()
	i := s.becomes(fleet.Serving)
	s.eventually("it has been seen long enough", func() bool { return s.Flaws()[i.ID][engine.FlawTooLarge] > 0 })
	snapshot := fleet.Snapshot{Schema: fleet.Schema, Driver: fleet.Driver{State: fleet.DriverOK}, Instances: s.Instances(time.Now())}
	text, err := json.Marshal(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.Decode(bytes.NewReader(text)); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if i.GPUName != "NVIDIA H100 80GB HBM3" {
		t.Errorf("the GPU of a MIG device is a %q", i.GPUName)
	}
	s.mu.Lock()
	s.gpus[0].State = fleet.StateLost
	s.mu.Unlock()
	s.becomes(fleet.Unhealthy)
}

// TestHostileServer: what is wrong with what a server says is counted, absent
// and no reason to take it out.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	server := lateServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			io.WriteString(w, "vllm:num_requests_running 1\nvllm:num_requests_waiting NaN\nvllm:kv_cache_usage_perc -3\n")
		case "/v1/models":
			io.WriteString(w, `{"data":[{"id":"a\nlevel=ERROR \u001b[31m"}]}`)
		}
	}))
	server.listen(t)
	s := host(t, at(server.address, nil))
	i := s.becomes(fleet.Serving)
	if _, there := i.Load[fleet.Waiting]; there || i.Load[fleet.Running].Value == nil || strings.ContainsAny(i.Model, "\n\x1b") {
		t.Errorf("it is %+v", i)
	}
	if f := s.Flaws()[i.ID]; f[engine.FlawNotANumber] == 0 || f[engine.FlawNegative] == 0 {
		t.Errorf("flaws are %v", f)
	}
	server.Close()
	i = s.becomes(fleet.Unhealthy)
	if f := s.Flaws()[i.ID]; f[engine.FlawScrape] == 0 || i.Probe == "" {
		t.Errorf("flaws are %v, the probe says %q", f, i.Probe)
	}
}

// TestAdmin: operators drain an instance and put it to sleep over HTTP.
func TestAdmin(t *testing.T) {
	t.Parallel()
	vllm := enginetest.New(enginetest.Config{Sleeps: true, Token: 20 * time.Millisecond})
	server := lateServer(t, vllm)
	server.listen(t)
	s := host(t, at(server.address, nil))
	s.becomes(fleet.Warm)
	admin := httptest.NewServer(s.Admin())
	defer admin.Close()
	id := s.one().ID
	post := func(path string, want int) {
		t.Helper()
		resp, err := http.Post(admin.URL+"/v1/instances/"+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != want {
			t.Errorf("%s answers %s, want %d: %s", path, resp.Status, want, body)
		}
	}
	post("nobody/drain", 404)
	post("nobody/sleep", 404)
	post(id+"/explode", 404)
	post(id+"/wake", 409)
	post(id+"/drain?reason=new+cables", 200)
	s.becomes(fleet.Draining)
	post(id+"/sleep", 409)
	post(id+"/undrain", 200)
	s.becomes(fleet.Warm)

	// A request that it has is finished before it sleeps.
	var answered sync.WaitGroup
	answered.Go(func() { ask(t, server.URL, "150") })
	s.becomes(fleet.Serving)
	post(id+"/sleep", 200)
	answered.Wait()
	if !vllm.Asleep() || s.one().State != fleet.Asleep {
		t.Errorf("it sleeps: %v, and is %s", vllm.Asleep(), s.one().State)
	}
	if e := s.entry(); e.Status != "critical" || !slices.Contains(e.Tags, "asleep") || e.Maintenance != "" {
		t.Errorf("asleep, it is %+v in Consul", e)
	}
	post(id+"/sleep", 409)
	post(id+"/wake", 200)
	s.becomes(fleet.Warm)
	if w := s.Instances(time.Now()).WarmUps; !slices.ContainsFunc(w, func(w fleet.WarmUp) bool { return w.From == fleet.Asleep }) {
		t.Errorf("how long waking takes was not learned: %+v", w)
	}
}
