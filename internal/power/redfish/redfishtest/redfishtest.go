// Package redfishtest is a Redfish service for tests: one BMC with its systems
// over TLS, which can be looked at, and made to fail as real ones do, behind
// the back of the client under test.
//
// It is ours, as is the driver that is tested with it, so its own tests have
// two clients drive it that are not: DMTF's redfishtool and OpenStack's sushy.
package redfishtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// The account of each service.
const (
	Username = "gpupool"
	Password = "gpupool-Pass1"
)

// Options are what a service is like. The zero value is a BMC with one system,
// "1", that is off, and a certificate of the test's own CA.
type Options struct {
	Systems     []string // Ids; the first is the host that the methods of Service are about
	Vendor      string   // of the service root
	Resets      []string // what the host offers, On, ForceOff, GracefulShutdown and more if nil
	ActionInfo  bool     // offers them in an ActionInfo instead of AllowableValues
	Certificate loopback.Certificate
	MaxTLS      uint16 // the newest version of TLS, no limit if zero
	Extra       string // JSON members to add to the system, such as `"MemorySummary": "broken"`

	Username, Password string // of the account; the constants where they are empty
	// Hardware is the host that is powered; nil for one that is a variable.
	Hardware Hardware
}

// Hardware is a host outside of the service.
type Hardware interface {
	// On reads the chassis power.
	On(ctx context.Context) (bool, error)
	// Reset does what a ResetType of Redfish says: On, ForceOff or
	// GracefulShutdown.
	Reset(ctx context.Context, kind string) error
}

// Service is one simulated BMC. Its methods do not go through Redfish.
type Service struct {
	*loopback.Server

	options Options

	mu       sync.Mutex
	chassis  chassis
	faults   faults
	sessions map[string]string // path by token
	seq      int               // of sessions and tasks
	logins   int
	failed   int      // logins since the last good one
	requests []string // "GET /redfish/v1/"
	resets   []string // that were carried out
	task     *task
}

// chassis is the power of the host.
type chassis struct {
	on        bool
	moving    time.Time     // until when it is PoweringOn or PoweringOff
	transit   time.Duration // how long that takes
	stale     time.Duration // how long a change does not show
	changedAt time.Time
}

// faults are how the service fails, until they are set anew.
type faults struct {
	intercept  func(w http.ResponseWriter, r *http.Request) bool
	late       time.Duration // changes are carried out and answered after so long
	lose       lost          // the answers to changes
	ignoreSoft bool
	tasks      bool   // changes become tasks
	taskFails  string // with this message
	lockAfter  int    // logins that fail, 0 for no lockout
	sessions   int    // the most at once, 0 for no limit
}

type lost int

const (
	answered lost = iota
	withheld      // the connection stays
	cut           // it is closed
)

type task struct {
	path  string
	until time.Time
	fails string
}

// Start starts a service in 127.0.0.0/8. It ends with the test.
func Start(t testing.TB, o Options) *Service {
	t.Helper()
	s := New(o)
	s.Server = loopback.Start(t, loopback.Options{Certificate: o.Certificate, MaxTLS: o.MaxTLS}, s)
	return s
}

// New makes a service without a server, for who has one. Only those of its
// methods work that need no server.
func New(o Options) *Service {
	if len(o.Systems) == 0 {
		o.Systems = []string{"1"}
	}
	if o.Resets == nil {
		o.Resets = []string{"On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PushPowerButton", "Nmi"}
	}
	if o.Username == "" {
		o.Username, o.Password = Username, Password
	}
	if o.Hardware != nil {
		o.Resets = []string{"On", "ForceOff", "GracefulShutdown"}
	}
	return &Service{options: o, sessions: make(map[string]string)}
}

// Power is the true power of the host.
func (s *Service) Power() pool.Power {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chassis.on {
		return pool.PowerOn
	}
	return pool.PowerOff
}

// SetPower sets the power of the host, as its button would.
func (s *Service) SetPower(p pool.Power) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chassis.on = p == pool.PowerOn
	s.chassis.changedAt, s.chassis.moving = time.Time{}, time.Time{}
}

// Executions is the number of resets that the host carried out.
func (s *Service) Executions() int { return len(s.Resets()) }

// Resets are the ResetTypes that the host carried out, in order.
func (s *Service) Resets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.resets)
}

// Logins is the number of requests that brought a password.
func (s *Service) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Sessions is the number of sessions that are open.
func (s *Service) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Requests are the methods and paths of the requests so far that begin so.
func (s *Service) Requests(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(r string) bool { return !strings.HasPrefix(r, prefix) })
}

func (s *Service) set(f func(*faults)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.faults)
}

// LoseAnswers makes the host carry out changes whose answers never come.
func (s *Service) LoseAnswers() { s.set(func(f *faults) { f.lose = withheld }) }

// CutAnswers is like LoseAnswers, and the connection is closed.
func (s *Service) CutAnswers() { s.set(func(f *faults) { f.lose = cut }) }

// Late makes the host carry out changes, and answer them, only after d.
func (s *Service) Late(d time.Duration) { s.set(func(f *faults) { f.late = d }) }

// IgnoreSoft makes the operating system of the host ignore shutdowns.
func (s *Service) IgnoreSoft() { s.set(func(f *faults) { f.ignoreSoft = true }) }

// Tasks makes changes tasks, which fail with a message unless it is empty.
func (s *Service) Tasks(fails string) {
	s.set(func(f *faults) { f.tasks, f.taskFails = true, fails })
}

// LockAfter locks the account after so many failed logins in a row.
func (s *Service) LockAfter(n int) { s.set(func(f *faults) { f.lockAfter = n }) }

// LimitSessions allows so many sessions at once.
func (s *Service) LimitSessions(n int) { s.set(func(f *faults) { f.sessions = n }) }

// Transit makes changes take so long, PoweringOn or PoweringOff meanwhile.
func (s *Service) Transit(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chassis.transit = d
}

// Stale makes the PowerState show changes only after d.
func (s *Service) Stale(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chassis.stale = d
}

// Offer sets the resets that the host offers and carries out.
func (s *Service) Offer(resets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options.Resets = resets
}

// Intercept has a function answer requests in the place of the service: those
// for which it returns true. Nil ends that.
func (s *Service) Intercept(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.set(func(fs *faults) { fs.intercept = f })
}

// Refuse makes the service answer every change so.
func (s *Service) Refuse(status int, messageID, message string, header ...string) {
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/ComputerSystem.Reset") {
			return false
		}
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		Fail(w, status, messageID, message)
		return true
	})
}

// Fail writes an error as Redfish services do: DSP0266 section 8.6.
func Fail(w http.ResponseWriter, status int, messageID, message string) {
	write(w, status, map[string]any{"error": map[string]any{
		"code":    "Base.1.18.GeneralError",
		"message": "A general error has occurred. See ExtendedInfo for more information.",
		"@Message.ExtendedInfo": []map[string]any{{
			"@odata.type": "#Message.v1_1_1.Message", "MessageId": messageID, "Message": message,
			"Severity": "Critical", "Resolution": "None.",
		}},
	}})
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("OData-Version", "4.0")
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("redfishtest: %v", err)) // of our own types
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
