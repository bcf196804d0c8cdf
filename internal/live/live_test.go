package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/consul/consultest"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// logBuffer takes what several goroutines log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) count(part string) int { return strings.Count(l.String(), part) }

func newLog() (hclog.Logger, *logBuffer) {
	b := new(logBuffer)
	return hclog.New(&hclog.LoggerOptions{Output: b}), b
}

// newRunner is a runner of a pool whose Consul is not there.
func newRunner(t *testing.T, site *Site) (*Runner, *logBuffer) {
	t.Helper()
	c, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	log, said := newLog()
	return NewRunner(RunnerConfig{Pool: "p", Site: site, Consul: c, Limits: pool.Limits{Max: 3}, Poll: time.Second, Log: log}), said
}

// driver answers as its functions do.
type driver struct {
	state func(context.Context) (pool.Power, error)
	power.Driver
}

func (d driver) State(ctx context.Context) (pool.Power, error) { return d.state(ctx) }

func TestStateIsReadyOnlyAfterALook(t *testing.T) {
	now := time.Now()
	held := consul.Hold{Gen: 7, Until: now.Add(time.Minute)}
	looked := control.Report{Gen: 7, At: now}
	wanted := consul.Want{Count: 2, Rev: 1}
	for _, tt := range []struct {
		name  string
		hold  consul.Hold
		last  control.Report
		want  consul.Want
		why   string // of the last tick
		ready bool
		says  string
	}{
		{"all is well", held, looked, wanted, "", true, ""},
		{"it cannot decide at the moment", held, looked, wanted, "Nomad is away", true, "Nomad is away"},
		{"the lease ran out", consul.Hold{Gen: 7, Until: now.Add(-time.Second)}, looked, wanted, "", false, "ran out"},
		{"it has not looked since it won the lease", held, control.Report{Gen: 6}, wanted, "", false, "looks at the hosts first"},
		{"it could not look since", held, control.Report{Gen: 6}, wanted, "Nomad is away", false, "Nomad is away"},
		{"nothing is wanted", held, looked, consul.Want{}, "", false, "no count is wanted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _ := newRunner(t, NewSite(SiteConfig{}))
			r.lease, r.last, r.want, r.why = consul.Granted(tt.hold), tt.last, tt.want, tt.why
			if s := r.State(); s.Ready != tt.ready || !strings.Contains(s.Why, tt.says) || (tt.says == "") != (s.Why == "") {
				t.Errorf("got ready %t because %q", s.Ready, s.Why)
			}
		})
	}
	r, _ := newRunner(t, NewSite(SiteConfig{}))
	if s := r.State(); s.Ready || s.Why != "not claimed yet" {
		t.Errorf("before it runs: %+v", s)
	}
}

// TestAnActFitsTheLease: at no time of a well lease is there too little of it
// left to begin an act.
func TestAnActFitsTheLease(t *testing.T) {
	for _, ttl := range []time.Duration{0, consul.MinTTL, consul.DefaultTTL, consul.MaxTTL} {
		whole := ttl
		if ttl == 0 {
			whole = consul.DefaultTTL
		}
		// Lease: held for TTL less a fifth, renewed every third of it.
		least := whole - whole/5 - whole/3
		if got := actTimeout(ttl); got > least || got < 2*time.Second {
			t.Errorf("TTL %s: an act may take %s, and %s are left before a renewal", whole, got, least)
		}
	}
}

// TestPlanIsWhatWouldBeDone holds Plan against the count that it is asked for,
// the pool's max and the age of what was seen.
func TestPlanIsWhatWouldBeDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := newLog()
		c, err := consul.New(consul.Config{Address: "127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		limits := pool.Limits{
			Max: 2, MaxBooting: 9, MaxDraining: 9, PowerConfirm: time.Minute, BootTimeout: 15 * time.Minute,
			SoftOffTimeout: 5 * time.Minute, StaleAfter: time.Minute, Fence: 10 * time.Second, Agent: pool.AgentNone,
		}
		r := NewRunner(RunnerConfig{Pool: "p", Site: NewSite(SiteConfig{}), Consul: c, Limits: limits, Poll: time.Second, Log: log})
		now := time.Now()
		for _, id := range []string{"a", "b", "c"} {
			r.last.Snapshot.Hosts = append(r.last.Snapshot.Hosts, pool.View{
				Host: pool.Host{ID: id, NodeName: id, GPUs: 1},
				Seen: pool.Seen{Power: pool.PowerOff, PowerAt: now, NodeAt: now, Node: pool.Node{Status: pool.NodeAbsent}},
			})
		}
		for want, do := range []string{"", "power-on a", "power-on a, power-on b", "power-on a, power-on b"} {
			d, err := r.Plan(want)
			if got := actions(d); err != nil || got != do {
				t.Errorf("plan for %d: got %q, %v, want %q", want, got, err, do)
			}
		}
		time.Sleep(2 * time.Minute)
		if d, _ := r.Plan(2); actions(d) != "" {
			t.Errorf("a plan from old sight: %q", actions(d))
		}
	})
}

func actions(d pool.Decision) string {
	var out []string
	for _, a := range d.Actions {
		out = append(out, a.Do.String()+" "+a.Host)
	}
	return strings.Join(out, ", ")
}

// TestBugsEndNothing puts a panic into each place where one would end the
// process, which nothing would start again.
func TestBugsEndNothing(t *testing.T) {
	var b *bug
	t.Run("in a power driver", func(t *testing.T) {
		_, err := readPower(t.Context(), driver{state: func(context.Context) (pool.Power, error) { panic("driver") }})
		if !errors.As(err, &b) || !strings.Contains(b.stack, "live_test.go") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("in a goroutine of the look", func(t *testing.T) {
		site := NewSite(SiteConfig{Nomad: new(nomad.Client)}) // one that nobody made
		site.hosts = []Host{{Host: pool.Host{ID: "a", NodeName: "a"}, Driver: driver{state: func(context.Context) (pool.Power, error) { return pool.PowerOff, nil }}}}
		if _, err := site.Observe(t.Context()); !errors.As(err, &b) || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("in a tick", func(t *testing.T) {
		r, said := newRunner(t, NewSite(SiteConfig{}))
		r.lease = consul.Granted(consul.Hold{Gen: 1, Until: time.Now().Add(time.Hour)})
		r.loop = control.New(control.Config{Lease: func(time.Time) (uint64, time.Time, bool) { panic("lease") }})
		for range 3 {
			if next := r.tick(t.Context()); next != r.cfg.Poll {
				t.Errorf("the next tick comes after %s", next)
			}
		}
		if s := r.State(); s.Ready || !strings.Contains(s.Why, "which is a bug") {
			t.Errorf("the state is %+v", s)
		}
		if said.count("no decision") != 1 || said.count("live_test.go") == 0 {
			t.Errorf("it was not logged once with its stack: %s", said)
		}
	})
}

// TestDeadBMCsCostTheirOwnAnswer: those that do not answer are unknown after
// the timeout of one, and the others are known.
func TestDeadBMCsCostTheirOwnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := func(ctx context.Context) (pool.Power, error) { <-ctx.Done(); return pool.PowerUnknown, ctx.Err() }
		alive := func(context.Context) (pool.Power, error) { return pool.PowerOn, nil }
		lies := func(context.Context) (pool.Power, error) { return pool.PowerOn, errors.New("half an answer") }
		site := NewSite(SiteConfig{})
		for i := range bmcAtOnce - 2 {
			site.hosts = append(site.hosts, Host{Host: pool.Host{ID: fmt.Sprint("dead-", i)}, Driver: driver{state: dead}})
		}
		site.hosts = append(site.hosts, Host{Driver: driver{state: alive}}, Host{Driver: driver{state: lies}})
		views := make([]pool.View, len(site.hosts))
		begin := time.Now()
		site.seePower(t.Context(), views)
		if took := time.Since(begin); took != bmcTimeout {
			t.Errorf("it took %s", took)
		}
		for i, v := range views {
			if !v.PowerAt.Equal(begin) {
				t.Errorf("host %d was read at %s", i, v.PowerAt)
			}
		}
		n := len(views)
		if v := views[0]; v.Power != pool.PowerUnknown || v.PowerErr == "" {
			t.Errorf("a dead one: %+v", v.Seen)
		}
		if v := views[n-2]; v.Power != pool.PowerOn || v.PowerErr != "" {
			t.Errorf("a live one: %+v", v.Seen)
		}
		if v := views[n-1]; v.Power != pool.PowerUnknown || v.PowerErr != "half an answer" {
			t.Errorf("one with an answer and an error: %+v", v.Seen)
		}
	})
}

func TestAmbiguous(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{power.ErrUnreachable, false},
		{power.ErrAuth, false},
		{power.ErrRefused, false},
		{power.ErrCapacity, false},
		{power.ErrUnsupported, false},
		{nomad.ErrForeign, false},
		{nomad.ErrDenied, false},
		{nomad.ErrNotFound, false},
		{power.ErrAmbiguous, true},
		{errors.Join(power.ErrAmbiguous, power.ErrUnreachable), true}, // sent, and then the line was cut
		{nomad.ErrUnreachable, true},
		{context.DeadlineExceeded, true},
		{errors.New("something new"), true},
	} {
		if got := Ambiguous(fmt.Errorf("gpu-1: %w", tt.err)); got != tt.want {
			t.Errorf("%v: got %t", tt.err, got)
		}
	}
}

// TestTellerSaysThingsOnce: what goes wrong at every tick is logged once a
// minute, and the status is written when something changed, or else once a
// minute.
func TestTellerSaysThingsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, said := newLog()
		tell := newTeller(log)
		var written []consul.Status
		var refuse error
		publish := func(s consul.Status) error {
			if refuse == nil {
				written = append(written, s)
			}
			return refuse
		}
		report := func(phase pool.Phase, outcomes ...control.Outcome) {
			time.Sleep(time.Second)
			tell.report(control.Report{
				At: time.Now(), Want: 1, Outcomes: outcomes,
				Decision: pool.Decision{Hosts: []pool.Status{{ID: "a", Phase: phase, Why: "because"}}, Note: "none left"},
			}, publish)
		}
		expect := func(line string, n int) {
			t.Helper()
			if got := said.count(line); got != n {
				t.Errorf("%q was logged %d times, want %d:\n%s", line, got, n, said)
			}
		}

		// Trouble whose words change all the time.
		for i := range 90 {
			tell.trouble(fmt.Errorf("read tcp 127.0.0.1:%d: reset", 40000+i), publish)
			time.Sleep(time.Second)
		}
		expect("no decision", 2)
		report(pool.Off)
		expect("deciding again: after=1m31s", 1)
		if len(written) != 1 || written[0].Note != "none left" {
			t.Errorf("of a pool that was never seen, the status is %+v", written)
		}
		looked := written[0].At
		tell.trouble(errors.New("once more"), publish)
		expect("no decision", 3)
		if s := written[1]; s.Note != "nothing is decided: once more" || !s.At.Equal(looked) || len(s.Hosts) != 1 {
			t.Errorf("in trouble, the status is %+v", s)
		}
		report(pool.Off)
		if len(written) != 3 || written[2].Note != "none left" {
			t.Errorf("after the trouble, the status is %+v", written[2:])
		}
		written = written[:1]

		// Phases, and the status record.
		began := time.Now()
		for range 30 {
			report(pool.Off)
		}
		expect("phase: ", 1)
		if len(written) != 1 {
			t.Errorf("the status was written %d times in half a minute without a change", len(written))
		}
		report(pool.Booting)
		expect("from=off to=booting", 1)
		if n := len(written); n != 2 || written[1].Hosts[0].Phase != "booting" || !written[1].Hosts[0].Since.After(began.Add(30*time.Second)) {
			t.Errorf("the status after a change: %+v", written)
		}
		for range 120 {
			report(pool.Booting)
		}
		if n := len(written); n != 4 {
			t.Errorf("the status was written %d times in two minutes without a change", n-2)
		}

		// A change that could not be written is written later.
		refuse = errors.New("Consul is away")
		for range 5 {
			report(pool.Ready)
		}
		expect("cannot write the status", 1)
		refuse = nil
		report(pool.Ready)
		if n := len(written); n != 5 || written[4].Hosts[0].Phase != "ready" {
			t.Errorf("after the outage: %d, %+v", n, written[n-1])
		}

		// An action that fails again and again, and then does not.
		failed := control.Outcome{Action: pool.Action{Host: "a", Do: pool.Cordon}, Err: errors.New("denied")}
		for range 90 {
			report(pool.Ready, failed)
		}
		expect("could not: ", 2)
		report(pool.Ready, control.Outcome{Action: failed.Action, Done: true})
		expect("did: ", 1)
		report(pool.Ready, failed)
		expect("could not: ", 3)
	})
}

// TestAgents joins a real Consul's word on the agents with their own.
func TestAgents(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t)
	asked := make(map[string]int)
	var mu sync.Mutex
	serve := func(node string, answer func(w http.ResponseWriter)) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			asked[node]++
			mu.Unlock()
			answer(w)
		}))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	snapshot := func(node string, outside fleet.Outside) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			s := fleet.Snapshot{Schema: fleet.Schema, Node: node, Driver: fleet.Driver{State: fleet.DriverOK}, Outside: outside}
			_ = json.NewEncoder(w).Encode(s)
		}
	}
	register := func(node, addr, health string) {
		t.Helper()
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		err = server.Client().Agent().ServiceRegister(&api.AgentServiceRegistration{
			ID: node, Name: consul.AgentService, Address: host, Port: n, Meta: map[string]string{"node": node},
			Check: &api.AgentServiceCheck{TTL: "1h", Status: health},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	register("idle", serve("idle", snapshot("idle", fleet.Outside{Known: true})), api.HealthPassing)
	register("blind", serve("blind", snapshot("blind", fleet.Outside{Why: "not root"})), api.HealthPassing)
	register("secret", serve("secret", func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }), api.HealthPassing)
	register("dead", "127.0.0.1:1", api.HealthPassing)
	register("sick", serve("sick", snapshot("sick", fleet.Outside{Known: true})), api.HealthCritical)

	cc, err := consul.New(consul.Config{Address: server.Addr})
	if err != nil {
		t.Fatal(err)
	}
	log, said := newLog()
	site := NewSite(SiteConfig{Consul: cc, Agent: pool.AgentRequired, Log: log})
	begin := time.Now()
	names := []string{"idle", "blind", "secret", "dead", "sick", "absent"}
	var seen map[string]sight
	for range 3 {
		seen = site.seeAgents(t.Context(), names)
	}
	for node, want := range map[string]pool.Agent{
		"idle":   {Status: pool.AgentPassing},
		"blind":  {Status: pool.AgentPassing, Blind: "not root"},
		"secret": {Status: pool.AgentFailing},
		"dead":   {Status: pool.AgentFailing},
		"sick":   {Status: pool.AgentFailing},
	} {
		if got := seen[node]; got.Agent != want || got.at.Before(begin) {
			t.Errorf("%s: got %+v, want %+v", node, got, want)
		}
	}
	if _, ok := seen["absent"]; ok {
		t.Error("an agent that is not registered was seen")
	}
	if asked["sick"] != 0 {
		t.Error("an agent that Consul calls critical was asked")
	}
	if said.count("cannot read the agent") != 2 || said.count("give agents and readers the same one") != 1 {
		t.Errorf("each agent's trouble is not logged once: %s", said)
	}

	none := NewSite(SiteConfig{Consul: cc, Agent: pool.AgentNone})
	before := asked["idle"]
	if got := none.seeAgents(t.Context(), names); got != nil || asked["idle"] != before {
		t.Errorf("a pool without agents asked them: %v", got)
	}

	server.Stop()
	for range 3 {
		if got := site.seeAgents(t.Context(), names); len(got) != 0 {
			t.Errorf("without Consul: %v", got)
		}
	}
	if said.count("cannot read the agent: node=all") != 1 {
		t.Errorf("that Consul cannot be asked is not logged once: %s", said)
	}
}
