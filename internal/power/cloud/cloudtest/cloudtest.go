// Package cloudtest is what the simulators of clouds have in common, and the
// suite that the drivers of clouds pass besides that of package powertest. A
// simulator is a [Protocol] over a [Cloud], which has the machines and fails as
// real clouds do.
package cloudtest

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// Protocol is the language of a cloud.
type Protocol interface {
	// Serve answers one request, with the methods of Cloud.
	Serve(c *Cloud, w http.ResponseWriter, r *http.Request)
	// Fail answers so.
	Fail(w http.ResponseWriter, f Failure)
}

// Failure is an answer that is no success. Each cloud has words of its own.
type Failure int

// The failures.
const (
	BadLogin   Failure = iota // the credential is wrong
	Refused                   // no, for a reason of its own
	NoCapacity                // no machine is left
	Throttled                 // asked too often
	NoSoftOff                 // this instance has no such soft-off
	NotFound                  // no such instance
	WrongState                // not in that state
)

// Do is a thing to do to a machine.
type Do int

// The things.
const (
	Start Do = iota
	SoftStop
	HardStop
)

// Cloud is a simulated cloud: one account in one region. Its methods do not go
// through its API, save those that its Protocol is made of.
type Cloud struct {
	*loopback.Server

	protocol Protocol
	first    string

	mu       sync.Mutex
	machines map[string]*machine
	transit  time.Duration // how long a change takes
	faults   faults
	logins   int
	requests []string // "POST /"
}

// machine is one instance.
type machine struct {
	cloud.Instance
	until      time.Time   // while it is on its way
	then       cloud.Phase // where to
	executions int
}

// faults are how the cloud fails, until they are set anew.
type faults struct {
	intercept func(w http.ResponseWriter, r *http.Request) bool
	late      time.Duration // changes are carried out and answered after so long
	withhold  bool          // the answers to changes
	throttle  int           // requests to put off, -1 for all
	says      map[Do]Failure
}

// New starts a cloud with machines that are off. The methods of Cloud that
// name none are about the first.
func New(t testing.TB, o loopback.Options, p Protocol, ids ...string) *Cloud {
	t.Helper()
	c := &Cloud{protocol: p, first: ids[0], machines: make(map[string]*machine)}
	for _, id := range ids {
		c.machines[id] = &machine{Instance: cloud.Instance{Phase: cloud.Off}}
	}
	c.Server = loopback.Start(t, o, http.HandlerFunc(c.serve))
	return c
}

// Within is a context that ends when a call should long have been answered, or
// with the test.
func Within(t testing.TB) context.Context {
	t.Helper()
	return powertest.Within(t, 20*time.Second)
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.requests = append(c.requests, r.Method+" "+r.URL.Path)
	intercept := c.faults.intercept
	c.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	c.protocol.Serve(c, w, r)
}

// Login counts a login, and answers one that is not good.
func (c *Cloud) Login(w http.ResponseWriter, good bool) bool {
	c.mu.Lock()
	c.logins++
	c.mu.Unlock()
	if !good {
		c.protocol.Fail(w, BadLogin)
	}
	return good
}

// Admit says whether a request is not one too many, which is answered.
func (c *Cloud) Admit(w http.ResponseWriter) bool {
	c.mu.Lock()
	put := c.faults.throttle != 0
	if c.faults.throttle > 0 {
		c.faults.throttle--
	}
	c.mu.Unlock()
	if put {
		c.protocol.Fail(w, Throttled)
	}
	return !put
}

// Get is a machine as it is now.
func (c *Cloud) Get(id string) (cloud.Instance, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.machines[id]
	if !ok {
		return cloud.Instance{}, false
	}
	m.move()
	return m.Instance, true
}

// IDs are those of all machines, in order.
func (c *Cloud) IDs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id := range c.machines {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *machine) move() {
	if !m.until.IsZero() && !time.Now().Before(m.until) {
		m.Phase, m.until = m.then, time.Time{}
	}
}

// Change does a thing to a machine, as the faults want it, and answers.
func (c *Cloud) Change(w http.ResponseWriter, id string, do Do, accepted func()) {
	c.mu.Lock()
	f := c.faults
	c.mu.Unlock()
	if failure, ok := f.says[do]; ok {
		c.protocol.Fail(w, failure)
		return
	}
	c.Sleep(f.late)
	if failure, ok := c.carryOut(id, do); !ok {
		c.protocol.Fail(w, failure)
		return
	}
	if f.withhold {
		c.Sleep(time.Hour)
		return
	}
	accepted()
}

// carryOut changes a machine. What is done already is not done again.
func (c *Cloud) carryOut(id string, do Do) (Failure, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.machines[id]
	if !ok {
		return NotFound, false
	}
	m.move()
	way, then := cloud.Starting, cloud.On
	switch {
	case do == Start && (m.Phase == cloud.On || m.Phase == cloud.Starting):
		return 0, true
	case do == Start && m.Phase != cloud.Off:
		return WrongState, false
	case do == Start:
	case m.Phase == cloud.Off || m.Phase == cloud.Stopping && do == SoftStop:
		return 0, true
	case m.Phase == cloud.Gone || m.Phase == cloud.Leaving:
		return WrongState, false
	default:
		way, then = cloud.Stopping, cloud.Off
	}
	m.executions++
	m.Instance = cloud.Instance{Phase: then}
	if c.transit > 0 {
		m.Phase, m.then, m.until = way, then, time.Now().Add(c.transit)
	}
	return 0, true
}

// Power is the true power of the first machine.
func (c *Cloud) Power() pool.Power {
	if i, _ := c.Get(c.first); i.Phase == cloud.Off || i.Phase == cloud.Gone {
		return pool.PowerOff
	}
	return pool.PowerOn
}

// SetPower sets it, as someone at the cloud's console would.
func (c *Cloud) SetPower(p pool.Power) {
	phase := cloud.Off
	if p == pool.PowerOn {
		phase = cloud.On
	}
	c.Set(c.first, cloud.Instance{Phase: phase})
}

// Set makes a machine be so, and stay so.
func (c *Cloud) Set(id string, i cloud.Instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	if m, ok := c.machines[id]; ok {
		n = m.executions
	}
	c.machines[id] = &machine{Instance: i, executions: n}
}

// Executions is the number of changes that the first machine went through.
func (c *Cloud) Executions() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machines[c.first].executions
}

// Logins is the number of requests that brought a credential.
func (c *Cloud) Logins() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logins
}

// Requests are the methods and paths of the requests so far that begin so.
func (c *Cloud) Requests(prefix string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.requests), func(r string) bool { return !strings.HasPrefix(r, prefix) })
}

func (c *Cloud) set(f func(*faults)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.faults)
}

// Transit makes changes take so long.
func (c *Cloud) Transit(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transit = d
}

// Late makes changes be carried out, and answered, only after d.
func (c *Cloud) Late(d time.Duration) { c.set(func(f *faults) { f.late = d }) }

// LoseAnswers makes changes be carried out whose answers never come.
func (c *Cloud) LoseAnswers() { c.set(func(f *faults) { f.withhold = true }) }

// Throttle puts the next n requests off, or all of them if n is -1.
func (c *Cloud) Throttle(n int) { c.set(func(f *faults) { f.throttle = n }) }

// Say makes changes of a kind fail.
func (c *Cloud) Say(failure Failure, to ...Do) {
	c.set(func(f *faults) {
		f.says = make(map[Do]Failure)
		for _, do := range to {
			f.says[do] = failure
		}
	})
}

// Intercept has a function answer requests in the place of the cloud: those for
// which it returns true. Nil ends that.
func (c *Cloud) Intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	c.set(func(fs *faults) { fs.intercept = f })
}

// halfOpen makes the cloud begin answers and never end them. A cloud is read
// with one request, so that a connection that dies after the first answer is
// not noticed.
func (c *Cloud) halfOpen() {
	c.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		_ = http.NewResponseController(w).Flush() // its error is the client's end
		c.Sleep(time.Hour)
		return true
	})
}

// Controller shows the first machine to package powertest.
func (c *Cloud) Controller(right, wrong func() (power.Driver, error)) powertest.Controller {
	return powertest.Controller{
		Open: right, OpenWrong: wrong,
		Power: c.Power, SetPower: c.SetPower, Executions: c.Executions, Logins: c.Logins,
		Hang: c.Hang, LoseAnswers: c.LoseAnswers, Late: c.Late, Slow: c.Transit, BlackHole: c.BlackHole, HalfOpen: c.halfOpen, Stop: c.Stop,
		NoSoftOff:  func() { c.Say(NoSoftOff, SoftStop) },
		NoCapacity: func() { c.Say(NoCapacity, Start) },
		Refuse:     func() { c.Say(Refused, Start, SoftStop, HardStop) },
	}
}
