package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
	"github.com/gpupool/gpupool/internal/signal"
)

var update = flag.Bool("update", false, "rewrite the generated part of the reference pages")

// cluster answers for Nomad, Consul and the agents what a test says.
type cluster struct {
	mu     sync.Mutex
	d      nomad.Demand
	err    error // of Nomad
	panic  bool
	groups map[string]nomad.GroupScale
	agents map[string]fleet.Snapshot // by node
	silent map[string]bool
	away   error // of Consul
	strays []string
	asked  int // snapshots
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *cluster) demand(allocated, queued int, err error) {
	c.set(func() { c.d.Allocated, c.d.Queued, c.err = allocated, queued, err })
}

func (c *cluster) Demand(context.Context, nomad.PoolSpec) (nomad.Demand, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panic {
		panic("a bug")
	}
	return c.d, c.err
}

func (c *cluster) Groups(_ context.Context, _, job string) (map[string]nomad.GroupScale, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if job != "chat" {
		return nil, nomad.ErrNotFound
	}
	return c.groups, c.err
}

func (c *cluster) FindAgents(context.Context) (map[string]consul.AgentEntry, []string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries := make(map[string]consul.AgentEntry)
	for node := range c.agents {
		entries[node] = consul.AgentEntry{Node: node, Addr: node + ":9109"}
	}
	return entries, c.strays, c.away
}

// RoundTrip is an agent's answer.
func (c *cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	node, _, _ := strings.Cut(r.URL.Host, ":")
	if c.silent[node] {
		return nil, errors.New("no route to host")
	}
	s := c.agents[node]
	s.Schema, s.Node, s.Driver.State = fleet.Schema, node, fleet.DriverOK
	if s.At.IsZero() {
		s.At = time.Now()
	}
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// host puts a host with one GPU into the cluster, busy as given.
func (c *cluster) host(node string, busy float64) {
	c.set(func() {
		if c.agents == nil {
			c.agents, c.silent = make(map[string]fleet.Snapshot), make(map[string]bool)
		}
		if _, there := c.agents[node]; !there {
			c.d.Hosts = append(c.d.Hosts, nomad.HostDemand{Node: node, Ready: true})
		}
		c.agents[node] = fleet.Snapshot{GPUs: []fleet.GPU{{
			UUID: "GPU-" + node, State: fleet.StateOK, Busy: fleet.Value{Quality: fleet.QualityOK, Value: &busy},
		}}}
	})
}

// sampled is a plugin that samples the cluster, in a bubble, and keeps no
// history.
func sampled(t *testing.T, c *cluster, change ...func(*sampling)) *plugin {
	p := newPlugin(hclog.NewNullLogger())
	s := &sampling{
		known: signal.Known{Pools: []string{"h100"}}, hold: 2 * time.Minute, tally: newTally(), listen: pluginconfig.ListenOff,
		book: &book{log: p.log, fine: time.Hour, series: make(map[string]*series)},
	}
	s.look = &observer{
		log: p.log, every: 5 * time.Second, book: s.book, tally: s.tally, nomad: c, consul: c,
		gather: fleet.Config{Transport: c}, kick: make(chan struct{}, 1),
		pools: []nomad.PoolSpec{{Name: "h100", GPUsPerHost: 2}},
		sight: signal.Sight{Coverage: 0.9, Apart: 2 * time.Minute},
	}
	for _, f := range change {
		f(s)
	}
	p.now = s
	s.start()
	t.Cleanup(func() { p.stop(); s.done.Wait() })
	return p
}

const demandQuery = `demand_gpus{pool="h100"}`

func window(d time.Duration) sdk.TimeRange {
	now := time.Now()
	return sdk.TimeRange{From: now.Add(-d), To: now}
}

// one asks for an instant.
func one(t *testing.T, p *plugin, query string) (float64, error) {
	t.Helper()
	got, err := p.Query(query, window(0))
	if err != nil {
		return 0, err
	}
	if len(got) != 1 {
		t.Fatalf("%s: an instant is %d points", query, len(got))
	}
	return got[0].Value, nil
}

func TestQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		c.demand(2, 1, nil)
		p := sampled(t, c)
		time.Sleep(12 * time.Second) // samples at 0, 5 and 10 s
		c.demand(4, 0, nil)
		time.Sleep(4 * time.Second) // and at 15 s

		got, err := p.Query(demandQuery, window(time.Minute))
		if err != nil || len(got) != 4 || got[0].Value != 3 || got[3].Value != 4 {
			t.Errorf("a window: %v, %v", got, err)
		}
		got, err = p.Query(demandQuery, window(7*time.Second))
		if err != nil || len(got) != 2 {
			t.Errorf("a short window: %v, %v", got, err)
		}
		// An instant is exactly one point, at the time that it was true.
		got, err = p.Query(demandQuery, window(0))
		if err != nil || len(got) != 1 || got[0].Value != 4 || time.Since(got[0].Timestamp) != time.Second {
			t.Errorf("an instant: %v, %v", got, err)
		}
		got, err = p.Query(`max_over_time(demand_gpus{pool="h100"}[10s])`, window(time.Minute))
		if err != nil || len(got) != 4 || got[0].Value != 3 || got[3].Value != 4 {
			t.Errorf("a window over time: %v, %v", got, err)
		}
		if v, err := one(t, p, `avg_over_time(demand_gpus{pool="h100"}[10s])`); err != nil || v != 3.5 {
			t.Errorf("an instant over time: %v, %v", v, err)
		}
		// A query with an offset is about the past.
		now := time.Now()
		got, err = p.Query(demandQuery, sdk.TimeRange{From: now.Add(-8 * time.Second), To: now.Add(-2 * time.Second)})
		if err != nil || len(got) != 1 || got[0].Value != 3 {
			t.Errorf("with an offset: %v, %v", got, err)
		}
		if _, err = p.Query(`demand_gpu{pool="h100"}`, window(0)); err == nil || !strings.Contains(err.Error(), `did you mean "demand_gpus"?`) {
			t.Errorf("a mistake: %v", err)
		}
		if _, err := newPlugin(hclog.NewNullLogger()).Query(demandQuery, window(0)); err == nil || !strings.Contains(err.Error(), "no configuration yet") {
			t.Errorf("before SetConfig: %v", err)
		}
	})
}

// The first question about something is answered, not only those after it.
func TestFirstQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{groups: map[string]nomad.GroupScale{"web": {Wanted: 3}}}
		c.host("a", 0.5)
		p := sampled(t, c)
		time.Sleep(time.Second)
		if c.asked != 0 {
			t.Errorf("%d agents were asked though no query is about them", c.asked)
		}
		for query, want := range map[string]float64{
			`queued_gpus{pool="h100"}`: 0, `gpu_busy_ratio{pool="h100"}`: 0.5, `instances_wanted{job="chat"}`: 3,
		} {
			if got, err := one(t, p, query); err != nil || got != want {
				t.Errorf("%s is %v, %v; want %v", query, got, err, want)
			}
		}
		if _, err := one(t, p, `instances_wanted{job="caht"}`); err == nil || !strings.Contains(err.Error(), `no job "caht"`) {
			t.Errorf("a job that is not there: %v", err)
		}
	})
}

func TestHoldThenError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		p := sampled(t, c)
		c.demand(5, 0, nil)
		time.Sleep(6 * time.Second)
		c.demand(0, 0, errors.New("nomad is away"))

		// Held, at the time that it was true: never a zero, never empty.
		time.Sleep(90 * time.Second)
		got, err := p.Query(demandQuery, window(10*time.Second))
		if err != nil || len(got) != 1 || got[0].Value != 5 {
			t.Errorf("held: %v, %v", got, err)
		}
		time.Sleep(time.Minute)
		for _, d := range []time.Duration{0, 10 * time.Second, time.Hour} {
			if got, err := p.Query(demandQuery, window(d)); err == nil || !strings.Contains(err.Error(), "nomad is away") {
				t.Errorf("too old, window %s: %v, %v", d, got, err)
			}
		}
		c.demand(1, 0, nil)
		time.Sleep(6 * time.Second)
		if v, err := one(t, p, demandQuery); err != nil || v != 1 {
			t.Errorf("back: %v, %v", v, err)
		}
	})
}

func TestNothingReadYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		c.demand(0, 0, errors.New("nomad is away"))
		p := sampled(t, c)
		time.Sleep(time.Second)
		if got, err := p.Query(demandQuery, window(time.Minute)); err == nil || !strings.Contains(err.Error(), "nomad is away") {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestABugIsAFailedReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := sampled(t, &cluster{panic: true})
		time.Sleep(time.Second)
		if _, err := p.Query(demandQuery, window(0)); err == nil || !strings.Contains(err.Error(), "panic") {
			t.Errorf("got %v", err)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := sampled(t, &cluster{})
		time.Sleep(3 * time.Hour)
		got, err := p.Query(demandQuery, window(24*time.Hour))
		if err != nil || len(got) > 722 || len(got) < 719 {
			t.Errorf("%d samples in memory, an hour's are 720: %v", len(got), err)
		}
	})
}

// Agents that fall silent: the last value stands, unless what is seen is more,
// and then nothing is known. It is never the value of those that answer.
func TestSilentAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		c.host("a", 0.2)
		c.host("b", 1)
		p := sampled(t, c)
		const avg, sum = `gpu_busy_ratio{pool="h100"}`, `sum(gpu_busy_ratio{pool="h100"})`
		check := func(what, query string, want float64, wrong string) {
			t.Helper()
			got, err := one(t, p, query)
			switch {
			case wrong == "" && (err != nil || got != want):
				t.Errorf("%s: %s is %v, %v; want %v", what, query, got, err, want)
			case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
				t.Errorf("%s: %s is %v, %v; want %q", what, query, got, err, wrong)
			}
		}
		time.Sleep(time.Second)
		check("all answer", avg, 0.6, "")
		check("all answer", sum, 1.2, "")

		c.set(func() { c.silent["b"] = true })
		time.Sleep(time.Minute)
		check("the busy one is silent", avg, 0.6, "")
		check("the busy one is silent", sum, 1.2, "")
		check("its silence is seen", `agent_coverage_ratio{pool="h100"}`, 0.5, "")
		time.Sleep(90 * time.Second)
		check("for longer than hold", avg, 0, "1 of 2 agents gave no answer: b; agent of node b")
		check("for longer than hold", sum, 0, "below the 90% that are asked for")

		// What is seen is more than what was known: so much is, and more may be.
		c.set(func() {
			for i := range 3 {
				g := c.agents["a"].GPUs[0]
				g.UUID += fmt.Sprint(i)
				s := c.agents["a"]
				s.GPUs = append(s.GPUs, g)
				c.agents["a"] = s
			}
			one := 1.0
			for i := range c.agents["a"].GPUs {
				c.agents["a"].GPUs[i].Busy.Value = &one
			}
		})
		time.Sleep(10 * time.Second)
		check("more is seen", sum, 4, "")
		check("more is seen", avg, 0, "below the 90%")

		c.set(func() { c.silent["b"] = false })
		time.Sleep(10 * time.Second)
		check("all answer again", sum, 5, "")

		// An agent that came later is found.
		c.host("c", 1)
		time.Sleep(20 * time.Second)
		check("a new one", sum, 6, "")
		c.set(func() { c.d.Hosts = c.d.Hosts[:2] })

		// A host that went off is not missing.
		c.set(func() { c.silent["b"], c.d.Hosts = true, c.d.Hosts[:1] })
		time.Sleep(10 * time.Second)
		check("the other is off", sum, 4, "")
	})
}

// Consul may go away: agents that it told of are asked on.
func TestConsulAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{away: errors.New("consul is away")}
		c.host("a", 0.5)
		p := sampled(t, c)
		if _, err := one(t, p, `gpu_busy_ratio{pool="h100"}`); err == nil || !strings.Contains(err.Error(), "consul is away") {
			t.Errorf("from the start: %v", err)
		}
		c.set(func() { c.away = nil })
		time.Sleep(10 * time.Second)
		c.set(func() { c.away = errors.New("consul is away") })
		c.host("a", 0.7)
		time.Sleep(10 * time.Minute)
		if v, err := one(t, p, `gpu_busy_ratio{pool="h100"}`); err != nil || v != 0.7 {
			t.Errorf("later: %v, %v", v, err)
		}
	})
}

// A query about two parts keeps what was seen last, whichever part that was.
func TestSightsInOrder(t *testing.T) {
	away := errors.New("consul is away")
	for range 300 {
		book := &book{log: hclog.NewNullLogger(), fine: time.Hour, series: make(map[string]*series)}
		o := &observer{log: book.log, book: book, kick: make(chan struct{}, 1), sight: signal.Sight{Coverage: 0.9}}
		book.added = o.show
		q, err := signal.Parse(`gpu_busy_ratio{pool="h100"}`, signal.Known{Pools: []string{"h100"}})
		if err != nil {
			t.Fatal(err)
		}
		s, err := book.of(q, false, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() {
			o.put(t.Context(), part{partPool, "h100"}, func(s *signal.Sight) { s.Pools = with(s.Pools, "h100", signal.Pool{At: time.Now()}) })
		})
		both.Go(func() {
			o.put(t.Context(), part{kind: partFleet}, func(s *signal.Sight) { s.Fleet = &signal.Fleet{At: time.Now(), Err: away} })
		})
		both.Wait()
		if !errors.Is(s.err, away) {
			t.Fatalf("the agents were looked at, and the query says %v", s.err)
		}
	}
}

// Agents whose clocks are off are believed, as nothing rests on their clocks;
// ages that cannot be are not.
func TestLiesAboutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{}
		c.host("a", 0.5)
		var log bytes.Buffer
		p := sampled(t, c, func(s *sampling) { s.look.log = hclog.New(&hclog.LoggerOptions{Output: &log}) })
		c.set(func() {
			s := c.agents["a"]
			s.At = time.Now().Add(-1e6 * time.Second)
			c.agents["a"] = s
		})
		got, err := p.Query(`gpu_busy_ratio{pool="h100"}`, window(0))
		if err != nil || got[0].Value != 0.5 || time.Since(got[0].Timestamp) > time.Minute {
			t.Errorf("a clock that is off: %v, %v", got, err)
		}
		time.Sleep(time.Hour)
		if n := strings.Count(log.String(), "the clock of a host is off"); n != 1 {
			t.Errorf("it is logged %d times:\n%s", n, &log)
		}
		for _, age := range []float64{1e9, -5} {
			c.set(func() { c.agents["a"].GPUs[0].Busy.Age = age })
			time.Sleep(10 * time.Minute)
			if v, err := one(t, p, `gpu_busy_ratio{pool="h100"}`); err == nil {
				t.Errorf("an age of %g s: %v", age, v)
			}
		}
	})
}

// Entries in Consul that are none of an agent are named once, counted, and left
// out.
func TestStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{strays: []string{`service "x" names no Nomad node`}}
		c.host("a", 0.5)
		var log bytes.Buffer
		p := sampled(t, c, func(s *sampling) { s.look.log = hclog.New(&hclog.LoggerOptions{Output: &log}) })
		if v, err := one(t, p, `gpu_busy_ratio{pool="h100"}`); err != nil || v != 0.5 {
			t.Errorf("%v, %v", v, err)
		}
		time.Sleep(time.Hour)
		if n := strings.Count(log.String(), "names no Nomad node"); n != 1 {
			t.Errorf("told %d times:\n%s", n, &log)
		}
		if got := served(t, p.now)["gpupool_apm_stray_entries "]; got != "1" {
			t.Errorf("counted %q", got)
		}
	})
}

func TestManyQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := sampled(t, &cluster{}, func(s *sampling) { s.look.every, s.hold = 10*time.Minute, time.Hour })
		time.Sleep(time.Second)
		ask := func(i int) error {
			_, err := p.Query(fmt.Sprintf(`queued_gpus{pool="h100",model="m%d"}`, i), window(0))
			return err
		}
		for i := range maxSeries - 1 { // one stands
			if err := ask(i); err != nil {
				t.Fatal(err)
			}
		}
		if err := ask(-1); err == nil || !strings.Contains(err.Error(), "500 different queries") {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(time.Hour)
		if err := ask(-1); err != nil {
			t.Errorf("when the others were not asked in a while: %v", err)
		}
		time.Sleep(25 * time.Hour)
		if err := ask(-2); err != nil {
			t.Error(err)
		}
		if n := len(p.now.book.all()); n > maxSeries {
			t.Errorf("%d series", n)
		}
		if v, err := one(t, p, demandQuery); err != nil || v != 0 {
			t.Errorf("what stands: %v, %v", v, err)
		}
	})
}

func TestTake(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	bad := errors.New("a source is away")
	for _, tt := range []struct {
		what string
		r    signal.Reading
		want []float64
	}{
		{"a value", signal.Reading{At: at.Add(time.Second), Value: 3}, []float64{5, 3}},
		{"the same reading again", signal.Reading{At: at, Value: 3}, []float64{5}},
		{"one that is older", signal.Reading{At: at.Add(-time.Second), Value: 3}, []float64{5}},
		{"none", signal.Reading{At: at.Add(time.Second), Err: bad, Value: 9}, []float64{5}},
		{"at least less", signal.Reading{At: at.Add(time.Second), Err: bad, Value: 4, AtLeast: true}, []float64{5}},
		{"at least the same", signal.Reading{At: at.Add(time.Second), Err: bad, Value: 5, AtLeast: true}, []float64{5}},
		{"at least more", signal.Reading{At: at.Add(time.Second), Err: bad, Value: 6, AtLeast: true}, []float64{5, 6}},
	} {
		q, err := signal.Parse(demandQuery, signal.Known{Pools: []string{"h100"}})
		if err != nil {
			t.Fatal(err)
		}
		s := newSeries(q, false)
		s.take(at, signal.Reading{At: at, Value: 5}, time.Hour, hclog.NewNullLogger())
		s.take(at, tt.r, time.Hour, hclog.NewNullLogger())
		var got []float64
		for _, p := range s.fine {
			got = append(got, p.Value)
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("after 5, %s: %v, want %v", tt.what, got, tt.want)
		}
		if (s.err != nil) != (tt.r.Err != nil) {
			t.Errorf("%s: the error is %v", tt.what, s.err)
		}
	}
	q, err := signal.Parse(demandQuery, signal.Known{Pools: []string{"h100"}})
	if err != nil {
		t.Fatal(err)
	}
	back := newSeries(q, false)
	for i := range 60 {
		back.take(at.Add(time.Duration(i)*time.Minute), signal.Reading{At: at.Add(time.Duration(i) * time.Minute), Value: float64(i)}, 2*time.Hour, hclog.NewNullLogger())
	}
	now := at.Add(30*time.Minute + time.Second)
	back.take(now, signal.Reading{At: now, Value: 99}, 2*time.Hour, hclog.NewNullLogger())
	if n := len(back.fine); n != 32 || back.fine[n-1].Value != 99 || back.fine[n-2].Value != 30 {
		t.Errorf("after the clock was set back by half an hour: %v", back.fine)
	}
	s := newSeries(signal.Query{Terms: []signal.Term{{Signal: &signal.Signals[0]}}}, false)
	s.take(at, signal.Reading{At: at, Err: bad, Value: 6, AtLeast: true}, time.Hour, hclog.NewNullLogger())
	if len(s.fine) != 0 {
		t.Errorf("a bound with nothing before it was taken for a value: %v", s.fine)
	}
}

// To one who compares answers, the past of a series that is recorded changes
// twice a day at most: when samples that have become old make room for minutes.
func TestThePastIsToldAlike(t *testing.T) {
	s := recording(t, &archive{})
	var before sdk.TimestampedMetrics
	changes := 0
	for at := noon; at.Before(noon.Add(60 * time.Hour)); at = at.Add(20 * time.Second) {
		s.sample(t, at, float64(at.Unix()/20%100))
		if at.Unix()%600 != 0 {
			continue
		}
		s.keep.round(t.Context(), s.book, at)
		got := s.points(t, noon, at)
		for i, p := range before {
			if got[i] != p {
				changes++
				break
			}
		}
		before = got
		if most := 13 * 180; len(s.book.series[demandQuery].fine) > most+1 {
			t.Fatalf("%d samples in memory", len(s.book.series[demandQuery].fine))
		}
	}
	if changes < 3 || changes > 5 {
		t.Errorf("the past changed %d times in 60 hours", changes)
	}
	if len(before) > 60*60+13*180 || len(before) < 60*60 {
		t.Errorf("%d points", len(before))
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const poolsFile = `
pool "h100" {
  node_pool     = "gpu"
  device        = "nvidia/gpu"
  gpus_per_host = 2
  max           = 1
  host "a" {
    power "command" {
      on     = ["true"]
      off    = ["true"]
      status = ["true"]
    }
  }
}
`

func TestSetConfig(t *testing.T) {
	p := newPlugin(hclog.NewNullLogger())
	defer p.stop()
	pools := write(t, "pools.hcl", poolsFile)
	config := map[string]string{"pools": pools, "history": "none", "listen": "off", "nomad_address": "http://127.0.0.1:1", "consul_address": "127.0.0.1:1"}
	if err := p.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	first := p.now
	if _, err := p.Query(demandQuery, window(0)); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("Nomad is away: %v", err)
	}
	if _, err := p.Query(`gpu_idle{pool="h100"}`, window(0)); err == nil {
		t.Error("Nomad and Consul are away, and GPUs are idle")
	}
	// What is sampled goes on over a reload.
	for _, s := range first.book.all() {
		s.take(time.Now(), signal.Reading{At: time.Now(), Value: 7}, time.Hour, p.log)
	}
	config["hold"] = "10m"
	if err := p.SetConfig(config); err != nil {
		t.Fatal(err)
	}
	if p.now == first {
		t.Error("nothing was replaced")
	}
	for _, query := range []string{demandQuery, `gpu_idle{pool="h100"}`} {
		if v, err := one(t, p, query); err != nil || v != 7 {
			t.Errorf("after a reload %s is %v, %v", query, v, err)
		}
	}
	// A wrong one leaves everything as it is, and says all that is wrong.
	before := p.now
	err := p.SetConfig(map[string]string{
		"pools": write(t, "pools.hcl", `pool "x" {}`), "queues": "/nowhere/queues.hcl", "sample": "0s", "listen": "9110", "agent_key_file": "x.pem", "coverage": "2",
		"history": "consol", "history_url": "prom", "sampel": "5s", "consul_prefix": "a//b",
	})
	for _, want := range []string{"pool \"x\"", "/nowhere/queues.hcl", "sample:", "listen:", "agent_tls: is not set", "coverage:", "history:", "history_url:", `did you mean "sample"?`, "consul prefix"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if p.now != before {
		t.Error("a wrong configuration replaced a right one")
	}
}

// With queues.hcl, what a queue holds can be asked for.
func TestQueues(t *testing.T) {
	var depth = "3"
	var mu sync.Mutex
	serve := httpServer(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, `{"jobs": {"waiting": %s}}`, depth)
	})
	p := newPlugin(hclog.NewNullLogger())
	defer p.stop()
	err := p.SetConfig(map[string]string{
		"pools": write(t, "pools.hcl", poolsFile), "history": "none", "listen": "off", "sample": "1s",
		"nomad_address": "http://127.0.0.1:1", "consul_address": "127.0.0.1:1",
		"queues": write(t, "queues.hcl", fmt.Sprintf(`
queue "tasks" {
  activation = 2
  source "metrics-api" {
    url            = %q
    value_location = "jobs.waiting"
    target_value   = 2
  }
}
`, serve)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := one(t, p, `queue_depth{source="tasks"}`); err != nil || v != 3 {
		t.Errorf("depth %v, %v", v, err)
	}
	if v, err := one(t, p, `queue_demand{source="tasks"}`); err != nil || v != 1.5 {
		t.Errorf("demand %v, %v", v, err)
	}
	mu.Lock()
	depth = "2"
	mu.Unlock()
	deadline := time.Now().Add(time.Minute)
	for v := 1.5; v != 0; time.Sleep(50 * time.Millisecond) {
		if v, err = one(t, p, `queue_demand{source="tasks"}`); err != nil || time.Now().After(deadline) {
			t.Fatalf("not active, the demand is %v, %v", v, err)
		}
		if v == 0 {
			break
		}
	}
	if _, err := p.Query(`queue_depth{source="task"}`, window(0)); err == nil || !strings.Contains(err.Error(), `did you mean "tasks"?`) {
		t.Error(err)
	}
}

func TestReferencePages(t *testing.T) {
	r := pluginconfig.Read(pluginName, nil)
	declare(r)
	if err := setting.CheckPage("../../docs/reference/apm-nvml.md", "## Signals\n\n"+signal.Page()+"## Settings\n\n"+r.Doc(), *update); err != nil {
		t.Error(err)
	}
}
