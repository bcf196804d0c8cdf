package redfish_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/redfish"
	"github.com/gpupool/gpupool/internal/power/redfish/redfishtest"
)

// do is one call of a driver.
type do func(*testing.T, *redfish.Driver) error

func on(t *testing.T, d *redfish.Driver) error { return d.On(powertest.Within(t, plenty)) }
func soft(t *testing.T, d *redfish.Driver) error {
	return d.Off(powertest.Within(t, plenty), power.Soft)
}
func hard(t *testing.T, d *redfish.Driver) error {
	return d.Off(powertest.Within(t, plenty), power.Hard)
}
func read(t *testing.T, d *redfish.Driver) error {
	_, err := d.State(powertest.Within(t, plenty))
	return err
}

// What a service answers to a change, and what the caller learns of it.
func TestAnswersToChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		status  int
		id, say string
		want    error
		says    string
	}{
		{"resource in use", 409, "Base.1.18.ResourceInUse", "in use", power.ErrRefused, "ResourceInUse"},
		{"wrong state, HPE", 400, "iLO.2.14.InvalidOperationForSystemState", "Power is off", power.ErrRefused, "InvalidOperationForSystemState"},
		{"reset not in the list", 400, "Base.1.18.ActionParameterValueNotInList", "no such value", power.ErrUnsupported, "does not have this reset"},
		{"reset not supported", 400, "Base.1.18.ActionNotSupported", "no", power.ErrUnsupported, ""},
		{"no action", 405, "Base.1.18.OperationNotAllowed", "no", power.ErrUnsupported, ""},
		{"not implemented", 501, "Base.1.18.GeneralError", "no", power.ErrUnsupported, ""},
		{"too little privilege", 403, "Base.1.18.InsufficientPrivilege", "no", power.ErrRefused, "ConfigureComponents"},
		{"no licence, Supermicro", 403, "SMC.1.0.OemLicenseNotPassed", "Not licensed to perform this request. The following licenses DCMS were needed", power.ErrRefused, "lacks a licence"},
		{"credential refused", 401, "Base.1.18.NoValidSession", "no", power.ErrAuth, ""},
		{"busy", 503, "Base.1.18.ServiceTemporarilyUnavailable", "wait", power.ErrRefused, "busy"},
		{"too many", 429, "Base.1.18.GeneralError", "wait", power.ErrRefused, "busy"},
		{"precondition", 412, "Base.1.18.PreconditionFailed", "etag", power.ErrRefused, "PreconditionFailed"},
		{"failed inside", 500, "Base.1.18.InternalError", "oops", power.ErrAmbiguous, "InternalError"},
		{"gateway lost it", 502, "Base.1.18.GeneralError", "oops", power.ErrAmbiguous, ""},
		{"gateway gave up", 504, "Base.1.18.GeneralError", "oops", power.ErrAmbiguous, ""},
		{"redirect", 307, "Base.1.18.GeneralError", "elsewhere", power.ErrRefused, "redirect"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{})
			s.Refuse(c.status, c.id, c.say, "Location", s.URL+"/elsewhere")
			err := on(t, open(t, s))
			if !errors.Is(err, c.want) {
				t.Errorf("On: %v, want the class %q", err, c.want)
			}
			for _, other := range []error{power.ErrRefused, power.ErrUnsupported, power.ErrAuth, power.ErrAmbiguous, power.ErrUnreachable} {
				if !errors.Is(other, c.want) && errors.Is(err, other) {
					t.Errorf("On: %v is of two classes", err)
				}
			}
			wantText(t, err, c.says)
			if n := len(s.Requests("POST")); n != 1 {
				t.Errorf("the change was sent %d times", n)
			}
		})
	}
}

// What a service answers to a read.
func TestAnswersToReads(t *testing.T) {
	for _, c := range []struct {
		name    string
		status  int
		id, say string
		want    error
		says    string
	}{
		{"refused", 401, "Base.1.18.NoValidSession", "no", power.ErrAuth, "wrong password"},
		{"forbidden", 403, "Base.1.18.InsufficientPrivilege", "no", power.ErrAuth, "locked"},
		{"no licence", 403, "SMC.1.0.OemLicenseNotPassed", "Not licensed", power.ErrRefused, "licence"},
		{"gone", 404, "Base.1.18.ResourceMissingAtURI", "no", power.ErrRefused, "no such resource"},
		{"sessions", 503, "IDRAC.2.1.RAC0218", "The maximum number of user sessions is reached.", power.ErrUnreachable, "sessions are in use"},
		{"failed inside", 500, "Base.1.18.InternalError", "oops", power.ErrUnreachable, "oops"},
		{"starting", 503, "Base.1.18.ServiceInUnknownState", "wait", power.ErrUnreachable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{})
			s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "Systems/1") {
					redfishtest.Fail(w, c.status, c.id, c.say)
					return true
				}
				return false
			})
			d := open(t, s)
			p, err := d.State(powertest.Within(t, plenty))
			if !errors.Is(err, c.want) || p != pool.PowerUnknown {
				t.Errorf("State: %s, %v, want the class %q", p, err, c.want)
			}
			wantText(t, err, c.says)
		})
	}
}

// A change is sent once, also over a connection that was used before and that
// the service closes instead of answering, where net/http sends reads anew.
func TestCutAnswerIsNotSentAgain(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	d := open(t, s)
	if err := read(t, d); err != nil {
		t.Fatal(err)
	}
	s.CutAnswers()
	if err := on(t, d); !errors.Is(err, power.ErrAmbiguous) {
		t.Errorf("On: %v, want ambiguous", err)
	}
	if n := len(s.Requests("POST")); n != 1 || s.Executions() != 1 || s.Connections() != 1 {
		t.Errorf("%d POSTs, %d changes, %d connections, want one of each", n, s.Executions(), s.Connections())
	}
}

// Reads of the power are one request each, over one connection.
func TestReadsAreCheap(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	d := open(t, s)
	for range 5 {
		if err := read(t, d); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Requests("")); n != 2+5 || s.Connections() != 1 {
		t.Errorf("5 reads took %d requests and %d connections, want 7 and 1: %q", n, s.Connections(), s.Requests(""))
	}
}

// PowerState in each direction, and what is asked of a chassis on its way.
func TestTransitions(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	s.Transit(time.Hour)
	d := open(t, s)
	if err := on(t, d); err != nil {
		t.Fatal(err)
	}
	if p, err := d.State(powertest.Within(t, plenty)); p != pool.PowerOn || err != nil {
		t.Errorf("PoweringOn is %s, %v, want on", p, err)
	}
	if err := on(t, d); err != nil || s.Executions() != 1 {
		t.Errorf("on while powering on: %v, %d changes", err, s.Executions())
	}
	if err := soft(t, d); err != nil {
		t.Fatal(err)
	}
	if p, err := d.State(powertest.Within(t, plenty)); p != pool.PowerOn || err != nil {
		t.Errorf("PoweringOff is %s, %v, want on", p, err)
	}
	if err := soft(t, d); err != nil || s.Executions() != 2 {
		t.Errorf("soft off while powering off: %v, %d changes", err, s.Executions())
	}
	if err := on(t, d); !errors.Is(err, power.ErrRefused) {
		t.Errorf("on while powering off: %v, want refused", err)
	}
	if n := len(s.Requests("POST")); n != 2 {
		t.Errorf("%d changes were sent, want 2", n)
	}
	if err := hard(t, d); err != nil || len(s.Requests("POST")) != 3 {
		t.Errorf("hard off while powering off was not sent: %v", err)
	}
}

// A PowerState that lags behind is what is known: nothing is sent on top of it
// that would do harm, and the next look sees it.
func TestStaleState(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	d := open(t, s)
	s.Stale(time.Hour)
	for range 2 {
		if err := on(t, d); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := d.State(powertest.Within(t, plenty)); p != pool.PowerOff || err != nil {
		t.Errorf("State: %s, %v, want what it reports", p, err)
	}
	s.Stale(0)
	if p, err := d.State(powertest.Within(t, plenty)); p != pool.PowerOn || err != nil || s.Executions() != 1 {
		t.Errorf("State: %s, %v after %d changes", p, err, s.Executions())
	}
}

func TestSoftOffIgnored(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	s.IgnoreSoft()
	s.SetPower(pool.PowerOn)
	d := open(t, s)
	if err := soft(t, d); err != nil {
		t.Errorf("soft off that the service accepted: %v", err)
	}
	if s.Power() != pool.PowerOn || len(s.Resets()) != 0 {
		t.Errorf("the chassis is %s after %q", s.Power(), s.Resets())
	}
}

// Which reset is sent, by what the system offers and how it says so.
func TestResets(t *testing.T) {
	all := []string{"PushPowerButton", "PowerCycle", "ForceRestart", "GracefulRestart", "ForceOn", "On", "ForceOff", "GracefulShutdown"}
	for _, c := range []struct {
		name    string
		offered []string
		do      do
		from    pool.Power
		sent    string
		want    error
	}{
		{"on", all, on, pool.PowerOff, "On", nil},
		{"on by force where there is no other", []string{"ForceOn", "PushPowerButton"}, on, pool.PowerOff, "ForceOn", nil},
		{"no on", []string{"PushPowerButton", "PowerCycle"}, on, pool.PowerOff, "", power.ErrUnsupported},
		{"soft", all, soft, pool.PowerOn, "GracefulShutdown", nil},
		{"no soft", []string{"On", "ForceOff", "PushPowerButton", "GracefulRestart"}, soft, pool.PowerOn, "", power.ErrUnsupported},
		{"hard", all, hard, pool.PowerOn, "ForceOff", nil},
		{"no hard", []string{"On", "GracefulShutdown", "PowerCycle"}, hard, pool.PowerOn, "", power.ErrUnsupported},
	} {
		for _, info := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ActionInfo %t", c.name, info), func(t *testing.T) {
				t.Parallel()
				s := redfishtest.Start(t, redfishtest.Options{Resets: c.offered, ActionInfo: info})
				s.SetPower(c.from)
				if err := c.do(t, open(t, s)); !errors.Is(err, c.want) {
					t.Errorf("%v, want the class %v", err, c.want)
				}
				if got := strings.Join(s.Resets(), " "); got != c.sent {
					t.Errorf("sent %q, want %q", got, c.sent)
				}
				if sent := len(s.Requests("POST")); (sent == 1) != (c.sent != "") {
					t.Errorf("%d changes were sent", sent)
				}
			})
		}
	}
}

func TestTasks(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	s.Tasks("")
	d := open(t, s)
	if err := on(t, d); err != nil || s.Power() != pool.PowerOn {
		t.Errorf("a task that completes: %v, chassis %s", err, s.Power())
	}
	s.Tasks("the power supply has failed")
	err := hard(t, d)
	if !errors.Is(err, power.ErrRefused) || s.Power() != pool.PowerOn {
		t.Errorf("a task that fails: %v, chassis %s, want refused", err, s.Power())
	}
	wantText(t, err, "Exception", "the power supply has failed")

	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "TaskMonitors") {
			redfishtest.Fail(w, http.StatusNotFound, "Base.1.18.ResourceMissingAtURI", "gone")
			return true
		}
		return false
	})
	if err := hard(t, d); err != nil {
		t.Errorf("a task that cannot be read: %v, want accepted", err)
	}
}

// A service that is asked to be left alone is, for as long as it said.
func TestRetryAfter(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	d := open(t, s)
	s.Refuse(http.StatusServiceUnavailable, "Base.1.18.ServiceTemporarilyUnavailable", "wait", "Retry-After", "1")
	if err := on(t, d); !errors.Is(err, power.ErrRefused) {
		t.Fatalf("On: %v, want refused", err)
	}
	s.Intercept(nil)
	before := len(s.Requests(""))
	err := on(t, d)
	if !errors.Is(err, power.ErrUnreachable) || len(s.Requests("")) != before {
		t.Errorf("On: %v after %d more requests, want none", err, len(s.Requests(""))-before)
	}
	wantText(t, err, "Retry-After", "nothing was sent")
	for end := time.Now().Add(plenty); err != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		err = on(t, d)
	}
	if err != nil || s.Executions() != 1 {
		t.Errorf("On, later: %v", err)
	}
}

// The lockout of a BMC is never reached, by all calls together.
func TestNoLockout(t *testing.T) {
	for _, auth := range []string{"basic", "session"} {
		s := redfishtest.Start(t, redfishtest.Options{})
		s.LockAfter(3)
		bad := open(t, s, func(c *redfish.Config) { c.Password, c.Auth = wrongPassword, auth })
		for range 10 {
			if err := read(t, bad); !errors.Is(err, power.ErrAuth) {
				t.Fatalf("%s: %v, want the class of a refused credential", auth, err)
			}
		}
		if err := read(t, open(t, s)); err != nil {
			t.Errorf("%s: the account is locked out: %v", auth, err)
		}
	}
}

// Some makers' BMCs refuse good credentials now and then, and are believed only
// when they insist; others are believed at once.
func TestDoubtfulRefusals(t *testing.T) {
	refuse := func(w http.ResponseWriter, _ *http.Request) bool {
		redfishtest.Fail(w, http.StatusUnauthorized, "Base.1.18.NoValidSession", "no")
		return true
	}
	for vendor, forgiven := range map[string]int{"HPE": 4, "AMI": 4, "NVIDIA Corporation": 4, "Dell": 0, "": 0} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{Vendor: vendor})
			d := open(t, s)
			for range 2 { // the count begins anew after each success
				if err := read(t, d); err != nil {
					t.Fatal(err)
				}
				s.Intercept(refuse)
				for i := range forgiven {
					if err := read(t, d); !errors.Is(err, power.ErrUnreachable) || errors.Is(err, power.ErrAuth) {
						t.Fatalf("refusal %d: %v, want unreachable", i+1, err)
					}
				}
				s.Intercept(nil)
			}
			s.Intercept(refuse)
			var err error
			for range forgiven + 1 {
				err = read(t, d)
			}
			if !errors.Is(err, power.ErrAuth) {
				t.Errorf("after %d refusals: %v, want the class of a refused credential", forgiven+1, err)
			}
		})
	}
	s := redfishtest.Start(t, redfishtest.Options{Vendor: "HPE"})
	bad := open(t, s, func(c *redfish.Config) { c.Password = wrongPassword })
	if err := read(t, bad); !errors.Is(err, power.ErrAuth) {
		t.Errorf("a credential that was never good: %v", err)
	}
}

func TestSessions(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	s.LimitSessions(1)
	d := open(t, s, sessions)
	for range 3 {
		if err := on(t, d); err != nil {
			t.Fatal(err)
		}
	}
	if s.Sessions() != 0 {
		t.Errorf("%d sessions are left open", s.Sessions())
	}

	// Logged out after failures too, and after the call's own end.
	s.SetPower(pool.PowerOff)
	s.Refuse(http.StatusConflict, "Base.1.18.ResourceInUse", "in use")
	if err := on(t, d); !errors.Is(err, power.ErrRefused) || s.Sessions() != 0 {
		t.Errorf("refused: %v, %d sessions are left open", err, s.Sessions())
	}
	s.Intercept(nil)
	s.LoseAnswers()
	if err := d.On(powertest.Within(t, time.Second)); !errors.Is(err, power.ErrAmbiguous) || s.Sessions() != 0 {
		t.Errorf("answer lost: %v, %d sessions are left open", err, s.Sessions())
	}

	s.LimitSessions(-1)
	s.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the password was sent with %s %s", r.Method, r.URL.Path)
		}
		return false
	})
	if err := read(t, open(t, s, sessions)); err != nil {
		t.Error(err)
	}
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			redfishtest.Fail(w, http.StatusServiceUnavailable, "Base.1.18.SessionLimitExceeded", "too many")
			return true
		}
		return false
	})
	err := read(t, d)
	if !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("no session left: %v, want unreachable", err)
	}
	wantText(t, err, "all of its sessions are in use")
}

// Close ends a call that is under way, which still logs out, and leaves no
// connection open.
func TestCloseInACall(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	d := open(t, s, sessions)
	asked := make(chan struct{}, 1)
	s.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/Systems") {
			asked <- struct{}{}
			<-r.Context().Done()
		}
		return false
	})
	failed := make(chan error)
	go func() {
		_, err := d.State(powertest.Within(t, plenty))
		failed <- err
	}()
	<-asked
	_ = d.Close()
	if err := <-failed; !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("State: %v, want unreachable", err)
	}
	for end := time.Now().Add(plenty); s.Open() > 0 || s.Sessions() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections and %d sessions are left", s.Open(), s.Sessions())
		}
	}
}

// Which system is the host.
func TestWhichSystem(t *testing.T) {
	for _, c := range []struct {
		systems []string
		system  string
		want    string // in the error, empty for none
	}{
		{[]string{"437XR1138R2"}, "", ""},
		{[]string{"System_0", "HGX_Baseboard_0"}, "", ""},
		{[]string{"Node1", "Node2"}, "", "set system to one of: Node1, Node2"},
		{[]string{"Node1", "Node2"}, "Node1", ""},
		{[]string{"Node1", "Node2"}, "Node3", "no system Node3; set system to one of: Node1, Node2"},
		{[]string{"HGX_Baseboard_0"}, "", "set system to one of: HGX_Baseboard_0"},
	} {
		s := redfishtest.Start(t, redfishtest.Options{Systems: c.systems})
		d := open(t, s, func(rc *redfish.Config) { rc.System = c.system })
		p, err := d.State(powertest.Within(t, plenty))
		if c.want == "" {
			if err != nil || p != pool.PowerOff {
				t.Errorf("%q of %q: %s, %v", c.system, c.systems, p, err)
			}
			continue
		}
		if !errors.Is(err, power.ErrRefused) {
			t.Errorf("%q of %q: %v, want refused", c.system, c.systems, err)
		}
		wantText(t, err, c.want)
	}
}

// A property that the driver does not need may be of any type.
func TestBrokenProperties(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{Extra: `"MemorySummary": "32 GiB", "ProcessorSummary": [], "Boot": 7, "Status": null`})
	if err := on(t, open(t, s)); err != nil || s.Power() != pool.PowerOn {
		t.Errorf("On: %v, chassis %s", err, s.Power())
	}
	for _, state := range []string{`null`, `""`, `"Hibernating"`, `7`} {
		s := redfishtest.Start(t, redfishtest.Options{Extra: `"PowerState": ` + state})
		d := open(t, s)
		if p, err := d.State(powertest.Within(t, plenty)); p != pool.PowerUnknown || !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("PowerState %s: %s, %v, want unknown", state, p, err)
		}
		if err := on(t, d); !errors.Is(err, power.ErrUnreachable) || len(s.Requests("POST")) != 0 {
			t.Errorf("On with PowerState %s: %v, %d changes sent", state, err, len(s.Requests("POST")))
		}
	}
}

// Links and redirects that lead to another host do not get the password there.
func TestOtherHosts(t *testing.T) {
	thief := redfishtest.Start(t, redfishtest.Options{})
	steal := strings.TrimPrefix(thief.URL, "https://")
	reset := func(target string) string {
		return `"Actions": {"#ComputerSystem.Reset": {"target": "` + target + `"}}`
	}
	for _, extra := range []string{reset("https://" + steal + "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset"), reset("//" + steal + "/x"), reset("@" + steal + "/x"), reset(".evil.example/x")} {
		s := redfishtest.Start(t, redfishtest.Options{Extra: extra})
		if err := on(t, open(t, s, trusting)); !errors.Is(err, power.ErrRefused) {
			t.Errorf("%s: %v, want refused", extra, err)
		}
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := redfishtest.Start(t, redfishtest.Options{})
		s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, thief.URL+r.URL.Path, status)
			return true
		})
		if err := read(t, open(t, s, trusting)); !errors.Is(err, power.ErrRefused) {
			t.Errorf("%d: %v, want refused", status, err)
		}
	}
	for _, link := range []string{"@" + steal + "/redfish/v1/SessionService/Sessions", ".evil.example/x", "https://" + steal + "/x"} {
		s := redfishtest.Start(t, redfishtest.Options{})
		s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = fmt.Fprintf(w, `{"Links": {"Sessions": {"@odata.id": %q}}}`, link)
			return true
		})
		if err := read(t, open(t, s, trusting, sessions)); err == nil {
			t.Errorf("a login at %s succeeded", link)
		}
	}
	if n := len(thief.Requests("")); n != 0 {
		t.Errorf("the other host got %d requests", n)
	}
}

// trusting makes a driver that no certificate stops.
func trusting(c *redfish.Config) { c.CAFile, c.InsecureSkipVerify = "", true }

// A redirect on the same host is followed for a read, and not for ever.
func TestSameHostRedirect(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/redfish/v1/Systems" {
			http.Redirect(w, r, "/redfish/v1/Systems/", http.StatusMovedPermanently)
			return true
		}
		return false
	})
	if err := read(t, open(t, s)); err != nil {
		t.Errorf("State: %v", err)
	}
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path, http.StatusMovedPermanently)
		return true
	})
	if err := read(t, open(t, s)); !errors.Is(err, power.ErrRefused) {
		t.Errorf("State in a circle: %v, want refused", err)
	}
}

// Bodies and headers are read to a limit.
func TestFlood(t *testing.T) {
	for name, flood := range map[string]func(w http.ResponseWriter){
		"body":       func(w http.ResponseWriter) { w.WriteHeader(200); pour(w) },
		"error body": func(w http.ResponseWriter) { w.WriteHeader(500); pour(w) },
		"body that is right, and huge": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"PowerState": "On", "Members": [{"@odata.id": "/redfish/v1/Systems/1"}], "Junk": "`+strings.Repeat("x", 5<<20)+`"}`)
		},
		"header": func(w http.ResponseWriter) { w.Header().Set("X-Flood", strings.Repeat("x", 8<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redfishtest.Start(t, redfishtest.Options{})
			s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "Systems") {
					flood(w)
					return true
				}
				return false
			})
			err := read(t, open(t, s))
			if !errors.Is(err, power.ErrUnreachable) || len(fmt.Sprint(err)) > 1000 {
				t.Errorf("State: %.2000v", err)
			}
		})
	}
}

func pour(w http.ResponseWriter) {
	for range 64 {
		if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
			return
		}
	}
}

// A service that repeats the credential in its errors does not spill it into
// ours, in whatever form it repeats it.
func TestSecretInAnswers(t *testing.T) {
	const nasty = `pass"word\<1>`
	for _, auth := range []string{"basic", "session"} {
		s := redfishtest.Start(t, redfishtest.Options{})
		d := open(t, s, func(c *redfish.Config) { c.Password, c.Auth = nasty, auth })
		s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && auth == "session" {
				return false
			}
			body, _ := io.ReadAll(r.Body)
			redfishtest.Fail(w, 400, "Base.Bad", "you sent "+r.Header.Get("Authorization")+" and "+string(body)+" which is "+nasty)
			return true
		})
		err := read(t, d)
		wantText(t, err, "you sent", "(redacted)")
		for _, form := range []string{nasty, `pass\"word`, "<1>", `\u003c`, "Z3B1cG9vbDpwYXNz"} {
			if strings.Contains(fmt.Sprint(err), form) {
				t.Errorf("%s: %v spills the password as %s", auth, err, form)
			}
		}
	}
}

// The config's timeout bounds a call whose caller allows more.
func TestTimeoutOfTheConfig(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{})
	s.Hang()
	d := open(t, s, func(c *redfish.Config) { c.Timeout = "1s" })
	ctx := powertest.Within(t, time.Minute)
	if _, err := d.State(ctx); !errors.Is(err, power.ErrUnreachable) || ctx.Err() != nil {
		t.Errorf("State: %v; caller's context: %v", err, ctx.Err())
	}
}

// A BMC that was restarted, with a new life of its connections and perhaps
// another path of its system, is found again.
func TestServiceMoves(t *testing.T) {
	s := redfishtest.Start(t, redfishtest.Options{Systems: []string{"1", "HGX_1"}})
	d := open(t, s)
	if err := read(t, d); err != nil {
		t.Fatal(err)
	}
	missing := true
	s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if missing && strings.HasSuffix(r.URL.Path, "/Systems/1") {
			missing = false
			redfishtest.Fail(w, http.StatusNotFound, "Base.1.18.ResourceMissingAtURI", "gone")
			return true
		}
		return false
	})
	if err := read(t, d); !errors.Is(err, power.ErrRefused) {
		t.Errorf("State: %v, want refused", err)
	}
	if err := read(t, d); err != nil {
		t.Errorf("State, looked up anew: %v", err)
	}
	if n := len(s.Requests("GET /redfish/v1/Systems")) - len(s.Requests("GET /redfish/v1/Systems/")); n != 2 {
		t.Errorf("the systems were listed %d times, want 2", n)
	}
}
