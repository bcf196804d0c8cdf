// Package redfishtest is a Redfish service for tests: one BMC with its systems
// over TLS, which can be looked at, and made to fail as real ones do, behind
// the back of the client under test.
//
// It is ours, as is the driver that is tested with it, so its own tests have
// two clients drive it that are not: DMTF's redfishtool and OpenStack's sushy.
package redfishtest

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// The account of each service.
const (
	Username = "gpupool"
	Password = "gpupool-Pass1"
)

// Options are what a service is like. The zero value is a BMC with one system,
// "1", that is off, and a certificate of the test's own CA.
type Options struct {
	Systems     []string    // Ids; the first is the host that the methods of Service are about
	Vendor      string      // of the service root
	Resets      []string    // what the host offers, On, ForceOff, GracefulShutdown and more if nil
	ActionInfo  bool        // offers them in an ActionInfo instead of AllowableValues
	Certificate Certificate // CASigned if zero
	MaxTLS      uint16      // the newest version of TLS, no limit if zero
	Extra       string      // JSON members to add to the system, such as `"MemorySummary": "broken"`
}

// Service is one simulated BMC. Its methods do not go through Redfish.
type Service struct {
	URL         string // https://127.x.y.z:port
	CAFile      string // PEM of the CA that its certificate is of, or of itself
	Fingerprint string // of its certificate, as the driver's config has it

	t        testing.TB
	options  Options
	server   *http.Server
	listener *listener
	done     chan struct{} // closed when the service ends
	stop     func()
	hanging  atomic.Bool

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
	if len(o.Systems) == 0 {
		o.Systems = []string{"1"}
	}
	if o.Resets == nil {
		o.Resets = []string{"On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PushPowerButton", "Nmi"}
	}
	ip := loopback()
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatalf("listen for the Redfish simulator: %v", err)
	}
	cert, caFile := newCertificate(t, o.Certificate, ip)
	s := &Service{
		URL:         "https://" + tcp.Addr().String(),
		CAFile:      caFile,
		Fingerprint: fingerprint(cert),
		t:           t,
		options:     o,
		listener:    &listener{TCPListener: tcp, conns: make(map[*conn]bool), done: make(chan struct{})},
		done:        make(chan struct{}),
		sessions:    make(map[string]string),
	}
	s.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ConnState:         s.listener.state,
		ReadHeaderTimeout: time.Minute,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1, as BMCs speak it
		ErrorLog:          quiet,
	}
	s.stop = sync.OnceFunc(func() {
		close(s.done)
		s.listener.end()
		_ = s.server.Close()
	})
	t.Cleanup(s.stop)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: o.MaxTLS, MinVersion: tls.VersionTLS10}
	go func() { _ = s.server.Serve(tls.NewListener(s.listener, config)) }()
	return s
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

// Connections is the number of connections that were made so far.
func (s *Service) Connections() int { return int(s.listener.accepted.Load()) }

// Open is the number of connections that are open now.
func (s *Service) Open() int { return int(s.listener.open.Load()) }

func (s *Service) set(f func(*faults)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.faults)
}

// Hang makes the service read requests and answer none.
func (s *Service) Hang() { s.hanging.Store(true) }

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

// BlackHole makes everything that is sent to the service vanish, the first
// packet of new connections too.
func (s *Service) BlackHole() { s.listener.blackHole(s.t) }

// HalfOpen makes each connection go silent after its first answer, without
// being closed.
func (s *Service) HalfOpen() { s.listener.halfOpen.Store(true) }

// Stop ends the service: nothing listens at its address any more. It may be
// called more than once, and is called at the end of the test.
func (s *Service) Stop() { s.stop() }

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

var loopbacks atomic.Uint32

// loopback returns an address in 127.0.0.0/8 that no other call in this
// process, and hardly another process, was given.
func loopback() netip.Addr {
	n, pid := loopbacks.Add(1), os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(80 + pid>>8&0x3f), byte(pid), byte(1 + n%250)})
}
