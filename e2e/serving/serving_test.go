// Package serving plays the life of model servers on real parts: Consul, Nomad,
// the autoscaler, hosts that are off until instances need them, and on each the
// agent, which finds the servers, watches them and keeps them in Consul. It takes
// root; see package lab.
package serving

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/e2e/lab"
	"github.com/gpupool/gpupool/e2e/stage"
	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
)

// service is where the instances of jobs/serve.nomad.hcl are found.
const service = "serve-warm"

// TestServing: the scaling block of a job follows the load that the agents see. Its
// instances go from cold to warm as they are asked for, and hosts are powered on
// for them; they are drained when they are not needed any more. Meanwhile requests are sent to those that pass in Consul, as
// a router would, and none of them fails: not while instances come, not while
// they go, and not when an agent is killed.
func TestServing(t *testing.T) {
	p := raise(t)
	p.ok(p.Submit(p.ctx, "serve.nomad.hcl", map[string]string{
		"count":   "1",
		"engine":  "vllm",
		"prepare": "sleep 3",
		"warm_up": `{"prompt": "warm up", "max_tokens": 1}`,
		"command": "exec " + p.dir + "/bin/modelserver -listen $NOMAD_ADDR_http -load 4s -slots 2 -model demo",
		"slots":   "2",
		"max":     "3", "lead_time": "20s", "scale_in_after": "10s",
	}))
	clients := p.send(1)
	p.until("one instance passes", func() bool { return len(clients.passing()) == 1 })
	p.until("it answers requests", func() bool { return clients.answered() > 20 })
	first := p.instances()[0]
	if first.WarmUp == nil || *first.WarmUp < 4 || first.Model != "demo" || first.Engine != "vllm" {
		t.Errorf("the first instance is %+v", first)
	}
	p.until("its load is known", func() bool {
		running, known := p.instances()[0].Fresh(fleet.Running)
		return known && running > 0
	})

	// The agent is killed. It is started anew before its word has run out, and
	// nobody sees a difference.
	lost := clients.lost()
	p.kill("agent")
	p.until("the agent is back and knows the instance", func() bool {
		list := p.instances()
		return len(list) == 1 && list[0].State.Ready() && list[0].Changes < first.Changes
	})
	time.Sleep(5 * time.Second)
	if now := clients.lost(); now != lost {
		t.Errorf("the list of passing instances lost %d while an agent was restarted", now-lost)
	}

	// Four clients at a time fill two instances, which makes three at a
	// utilization of 80 %. One of them needs a host that is off.
	clients.set(p.ctx, 4)
	p.until("three instances pass", func() bool { return len(clients.passing()) == 3 })
	p.until("all of them are sent requests", func() bool { return len(clients.servers()) == 3 })
	p.until("all of them have served", func() bool {
		served := 0
		for _, h := range p.histories() {
			if slices.Contains(h, "serving") {
				served++
			}
		}
		return served == 3
	})

	clients.set(p.ctx, 1)
	p.until("one instance passes", func() bool { return len(clients.passing()) == 1 })
	p.ok(p.UntilRunning(p.ctx, "serve", 1))
	answered := clients.answered()
	p.until("the one that is left answers", func() bool { return clients.answered() > answered+20 })

	failures := clients.end()
	t.Logf("%d requests were answered, %d failed", clients.answered(), len(failures))
	for _, f := range failures[:min(len(failures), 10)] {
		t.Errorf("a request to an instance that passed in Consul failed: %s", f)
	}
	histories := p.histories()
	for id, h := range histories {
		t.Logf("%s: %s", id, strings.Join(h, ", "))
	}
	if len(histories) != 3 {
		t.Fatalf("%d instances were seen, want 3", len(histories))
	}
	drained := 0
	for id, h := range histories {
		if h[0] != "cold" || !slices.Contains(h, "warming") || !slices.Contains(h, "serving") {
			t.Errorf("%s did not go from cold over warming to serving: %v", id, h)
		}
		if h[len(h)-1] == "draining" {
			drained++
		}
		if slices.Contains(h, "unhealthy") {
			t.Errorf("%s was unhealthy: %v", id, h)
		}
	}
	if drained != 2 {
		t.Errorf("%d instances ended draining, want 2", drained)
	}
}

// play is a stage with a deadline for everything that a test does on it.
type play struct {
	*testing.T
	*stage.Stage
	ctx    context.Context
	dir    string
	agents *consul.Client

	mu   sync.Mutex
	last []fleet.Instance
	seen map[string][]string // states by instance
}

func raise(t *testing.T) *play {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpupool-e2e-") // t.TempDir's names have characters that the lab's command lines cannot
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	st, err := stage.Up(ctx, stage.Config{Dir: dir, Hosts: 2, Boot: time.Second, ScaleInAfter: 5 * time.Minute, Progress: func(m string) { t.Log(m) }})
	if err != nil {
		cancel()
		t.Fatalf("%v\nlogs are in %s", err, dir)
	}
	p := &play{T: t, Stage: st, ctx: ctx, dir: dir, seen: map[string][]string{}}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the last lines of each log; all are in %s\n%s\nthe agents':\n%s", dir, st.Tail(10), p.agentLogs())
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	root, err := lab.Repository()
	p.ok(err)
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "bin", "modelserver"), "./e2e/modelserver")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	p.agents, err = consul.New(consul.Config{Address: st.ConsulAddr()})
	p.ok(err)
	go p.watch()
	return p
}

func (p *play) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *play) until(what string, ok func() bool) {
	p.Helper()
	began := time.Now()
	p.ok(lab.Until(p.ctx, what, func(context.Context) (bool, error) { return ok(), nil }))
	p.Logf("%s: after %s", what, time.Since(began).Round(100*time.Millisecond))
}

// watch asks the agents for their instances again and again, and writes down
// the states that each goes through.
func (p *play) watch() {
	for ; p.ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		entries, err := p.agents.Agents(p.ctx)
		if err != nil {
			continue
		}
		addresses := map[string]string{}
		for node, e := range entries {
			addresses[node] = e.Addr
		}
		var all []fleet.Instance
		for _, r := range fleet.Gather(p.ctx, fleet.Config{}, addresses) {
			if r.Err == nil && r.Snapshot.Instances != nil {
				all = append(all, r.Snapshot.Instances.List...)
			}
		}
		p.mu.Lock()
		p.last = all
		for _, i := range all {
			if h := p.seen[i.ID]; len(h) == 0 || h[len(h)-1] != string(i.State) {
				p.seen[i.ID] = append(h, string(i.State))
			}
		}
		p.mu.Unlock()
	}
}

func (p *play) instances() []fleet.Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.last)
}

func (p *play) histories() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.seen)
}

// kill sends SIGKILL to the one process of the stage with that program name.
func (p *play) kill(program string) {
	p.Helper()
	var pids []int
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		path, err := os.Readlink(exe)
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), "environ"))
		if err != nil || filepath.Base(path) != program || !strings.Contains(string(environ), p.Mark()) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(exe))); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		p.Fatalf("%d processes are %s, not one", len(pids), program)
	}
	p.ok(syscall.Kill(pids[0], syscall.SIGKILL))
}

func (p *play) agentLogs() string {
	files, _ := filepath.Glob(filepath.Join(p.dir, "*", "nomad", "alloc", "*", "alloc", "logs", "agent.stderr.*"))
	more, _ := filepath.Glob(filepath.Join(p.dir, "*", "*", "nomad", "alloc", "*", "alloc", "logs", "agent.stderr.*"))
	var all strings.Builder
	for _, f := range append(files, more...) {
		text, _ := os.ReadFile(f)
		fmt.Fprintf(&all, "==> %s\n%s\n", f, text)
	}
	return all.String()
}

// clients send requests to the instances that pass in Consul, and to no other.
type clients struct {
	stop context.CancelFunc
	done sync.WaitGroup
	each []context.CancelFunc

	mu       sync.Mutex
	list     []string
	gone     int // instances that left the list
	count    int
	answers  map[string]int
	failures []string
}

// send starts n clients.
func (p *play) send(n int) *clients {
	ctx, stop := context.WithCancel(p.ctx)
	c := &clients{stop: stop, answers: map[string]int{}}
	c.done.Go(func() { c.follow(ctx, p.Consul()) })
	c.set(ctx, n)
	return c
}

// set changes how many clients there are.
func (c *clients) set(ctx context.Context, n int) {
	for len(c.each) > n {
		c.each[0]()
		c.each = c.each[1:]
	}
	for len(c.each) < n {
		one, stop := context.WithCancel(ctx)
		c.each = append(c.each, stop)
		c.done.Go(func() {
			for one.Err() == nil {
				c.request(one)
			}
		})
	}
}

// follow keeps the list of passing instances, as routers do: by blocking
// queries.
func (c *clients) follow(ctx context.Context, client *consulapi.Client) {
	for index := uint64(0); ctx.Err() == nil; {
		q := &consulapi.QueryOptions{WaitIndex: index, WaitTime: 10 * time.Second}
		entries, meta, err := client.Health().Service(service, "", true, q.WithContext(ctx))
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		index = meta.LastIndex
		var list []string
		for _, e := range entries {
			list = append(list, net.JoinHostPort(e.Service.Address, strconv.Itoa(e.Service.Port)))
		}
		c.mu.Lock()
		for _, a := range c.list {
			if !slices.Contains(list, a) {
				c.gone++
			}
		}
		c.list = list
		c.mu.Unlock()
	}
}

// request sends one request, of a tenth to half of a second.
func (c *clients) request(ctx context.Context) {
	list := c.passing()
	if len(list) == 0 {
		time.Sleep(20 * time.Millisecond)
		return
	}
	address := list[rand.N(len(list))]
	body := fmt.Sprintf(`{"prompt":"hello","max_tokens":%d}`, 5+rand.N(40))
	// A request that has begun is not broken off when the test ends.
	one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	err := post(one, "http://"+address+"/v1/completions", body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failures = append(c.failures, fmt.Sprintf("%s: %v", address, err))
		return
	}
	c.count++
	c.answers[address]++
}

func post(ctx context.Context, url, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !json.Valid(text)) {
		err = fmt.Errorf("%s: %.100s", resp.Status, text)
	}
	return err
}

func (c *clients) passing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list
}

func (c *clients) lost() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

func (c *clients) answered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// servers are the instances that answered.
func (c *clients) servers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for address := range c.answers {
		list = append(list, address)
	}
	return list
}

// end waits for the requests that are on their way, and returns what failed.
func (c *clients) end() []string {
	c.set(context.Background(), 0)
	c.stop()
	c.done.Wait()
	return c.failures
}
