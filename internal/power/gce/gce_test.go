package gce_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/gce"
	"github.com/gpupool/gpupool/internal/power/gce/gcetest"
	"github.com/gpupool/gpupool/internal/power/powertest"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

func TestContract(t *testing.T) {
	powertest.Run(t, powertest.Rig{
		Start: func(t *testing.T) powertest.Controller {
			e := gcetest.Start(t)
			open := func(credentials string) func() (power.Driver, error) {
				return func() (power.Driver, error) {
					c := config(e.Cloud, gcetest.InstanceName(1))
					c.Credentials = power.Secret(credentials)
					return gce.New(c)
				}
			}
			return e.Controller(open(gcetest.Credentials(e.URL)), open(gcetest.WrongCredentials(e.URL)))
		},
		Secret: gcetest.Token,
		Frames: cloudtest.Frames("gce"),
		Lacks:  map[string]string{"no secret in argv": "the driver starts no process"},
	})
}

func TestCloud(t *testing.T) {
	cloudtest.Run(t, cloudtest.Rig{
		Start: func(t *testing.T, ids ...string) *cloudtest.Cloud { return gcetest.Start(t, ids...).Cloud },
		ID:    gcetest.InstanceName,
		Open: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			return gce.New(config(c, id))
		},
		OpenInsecure: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			cfg := config(c, id)
			cfg.CAFile, cfg.InsecureSkipVerify = "", true
			return gce.New(cfg)
		},
		Rights:   "the credential may start and stop it",
		IsChange: func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Path != "/token" },
		Phases:   []cloud.Phase{cloud.Starting, cloud.Stopping, cloud.Busy, cloud.Leaving, cloud.Unknown},
		Secret:   gcetest.Token,
	})
}

// config reaches an instance.
func config(c *cloudtest.Cloud, name string) gce.Config {
	return gce.Config{
		Project: gcetest.Project, Zone: gcetest.Zone, Instance: name,
		Credentials: power.Secret(gcetest.Credentials(c.URL)), Endpoint: c.URL, CAFile: c.CAFile,
	}
}

// open returns a driver of the first instance, with changes to its config.
func open(t *testing.T, e *gcetest.Endpoint, change ...func(*gce.Config)) power.Driver {
	t.Helper()
	c := config(e.Cloud, gcetest.InstanceName(1))
	for _, f := range change {
		f(&c)
	}
	d, err := gce.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// What becomes of operations after they were accepted.
func TestOperations(t *testing.T) {
	for _, c := range []struct {
		name, code string
		takes      time.Duration
		want       error
		says       string
	}{
		{"no capacity", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 700 * time.Millisecond, power.ErrCapacity, "none of this type left in the zone"},
		{"no capacity, at once", "ZONE_RESOURCE_POOL_EXHAUSTED", 0, power.ErrCapacity, ""},
		{"no quota", "QUOTA_EXCEEDED", 0, power.ErrCapacity, "quota"},
		{"another failure", "SOMETHING_NEW", 0, power.ErrRefused, "SOMETHING_NEW in Google's words"},
		{"longer than it is watched", "ZONE_RESOURCE_POOL_EXHAUSTED", time.Minute, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := gcetest.Start(t)
			e.Slow(c.takes, c.code, "in Google's words")
			err := open(t, e, func(c *gce.Config) { c.OperationWait = "2s" }).On(cloudtest.Within(t))
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("On: %v, want %v and %q", err, c.want, c.says)
			}
			if n := len(e.Requests("POST /compute")); n != 1 {
				t.Errorf("the change was sent %d times", n)
			}
		})
	}
}

func TestChanges(t *testing.T) {
	e := gcetest.Start(t)
	yes, no := true, false
	for _, discard := range []*bool{nil, &yes, &no} {
		d := open(t, e, func(c *gce.Config) { c.DiscardLocalSSD = discard })
		for _, how := range []power.Off{power.Soft, power.Hard} {
			if err := errors.Join(d.On(cloudtest.Within(t)), d.Off(cloudtest.Within(t), how)); err != nil {
				t.Fatal(err)
			}
		}
	}
	e.Set(gcetest.InstanceName(1), cloud.Instance{Phase: cloud.Off, State: "SUSPENDED"})
	if err := open(t, e).On(cloudtest.Within(t)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"instances/gpu-1/start", "instances/gpu-1/stop", "instances/gpu-1/start", "instances/gpu-1/stop?noGracefulShutdown=true",
		"instances/gpu-1/start", "instances/gpu-1/stop?discardLocalSsd=true", "instances/gpu-1/start", "instances/gpu-1/stop?discardLocalSsd=true&noGracefulShutdown=true",
		"instances/gpu-1/start", "instances/gpu-1/stop?discardLocalSsd=false", "instances/gpu-1/start", "instances/gpu-1/stop?discardLocalSsd=false&noGracefulShutdown=true",
		"instances/gpu-1/resume",
	}
	if got := e.Changes(); !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// That Google took a spot instance back is said when it cannot be started
// again, and looked up once for each time that it stopped.
func TestPreemption(t *testing.T) {
	lookups := func(e *gcetest.Endpoint) int {
		n := 0
		for _, r := range e.Requests("GET") {
			if strings.HasSuffix(r, "/operations") {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name string
		at   time.Time
		want bool
	}{
		{"in its last run", gcetest.Started().Add(time.Hour), true},
		{"in a run before", gcetest.Started().Add(-time.Hour), false},
		{"never", time.Time{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := gcetest.Start(t)
			e.Spot(gcetest.InstanceName(1), c.at)
			d := open(t, e)
			for range 3 {
				if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil {
					t.Fatalf("%s, %v", p, err)
				}
			}
			e.Say(cloudtest.NoCapacity, cloudtest.Start)
			err := d.On(cloudtest.Within(t))
			if !errors.Is(err, power.ErrCapacity) || strings.Contains(err.Error(), "Google took the spot instance back at "+c.at.Format(time.RFC3339)) != c.want {
				t.Errorf("On: %v", err)
			}
			if n := lookups(e); n != 1 {
				t.Errorf("%d times looked up", n)
			}
		})
	}
	e := gcetest.Start(t)
	if _, err := open(t, e).State(cloudtest.Within(t)); err != nil || lookups(e) != 0 {
		t.Errorf("of an instance that is not spot: %v, %d look-ups", err, lookups(e))
	}
}

// An access token that was refused is fetched anew, once.
func TestRefusedToken(t *testing.T) {
	e := gcetest.Start(t)
	d := open(t, e)
	e.Reject(1)
	if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil || e.Logins() != 2 {
		t.Errorf("refused once: %s, %v after %d logins", p, err, e.Logins())
	}
	e.Reject(2)
	if _, err := d.State(cloudtest.Within(t)); !errors.Is(err, power.ErrAuth) || e.Logins() != 3 {
		t.Errorf("refused twice: %v after %d logins", err, e.Logins())
	}
}

// Without credentials the token is that of the machine's own service account.
func TestMetadata(t *testing.T) {
	e := gcetest.Start(t)
	answer := `{"access_token":"` + gcetest.Token + `","expires_in":3599,"token_type":"Bearer"}`
	status := http.StatusOK
	s := loopback.Start(t, loopback.Options{Plain: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" || r.Header.Get("Metadata-Flavor") != "Google" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	own := func(backoff string) power.Driver { // which makes it an account of its own
		return open(t, e, func(c *gce.Config) { c.Credentials, c.MetadataEndpoint, c.AuthBackoff = "", s.URL, backoff })
	}
	if p, err := own("10s").State(cloudtest.Within(t)); p != pool.PowerOff || err != nil || e.Logins() != 0 {
		t.Errorf("%s, %v", p, err)
	}
	for backoff, c := range map[string]struct {
		status int
		answer string
		want   error
		says   string
	}{
		"11s": {404, "", power.ErrAuth, "set credentials"},
		"12s": {500, "", power.ErrUnreachable, "HTTP 500"},
		"13s": {200, "{}", power.ErrUnreachable, "without an access token"},
		"14s": {200, `{"access_token":"a","expires_in":-1}`, power.ErrUnreachable, "without an access token"},
		"15s": {200, "<html>", power.ErrUnreachable, "without an access token"},
	} {
		status, answer = c.status, c.answer
		if _, err := own(backoff).State(cloudtest.Within(t)); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("HTTP %d %s: %v, want %v", c.status, c.answer, err, c.want)
		}
	}
	s.Stop()
	if _, err := own("16s").State(cloudtest.Within(t)); !errors.Is(err, power.ErrUnreachable) || !strings.Contains(err.Error(), "set credentials") {
		t.Errorf("no metadata service: %v", err)
	}
}

// What the service account may do is asked, and told.
func TestRights(t *testing.T) {
	for right, want := range map[string]string{
		"":                        "ok: the credential may start and stop it",
		"compute.instances.start": "WRONG: the credential lacks compute.instances.start",
		"compute.instances.stop":  "WRONG: the credential lacks compute.instances.stop",
	} {
		e := gcetest.Start(t)
		e.Deny(right)
		got := ""
		for _, f := range open(t, e).(power.Auditor).Audit(cloudtest.Within(t)) {
			if f.About == "rights" {
				got = f.Level.String() + ": " + f.What
			}
		}
		if got != want {
			t.Errorf("without %q: %q, want %q", right, got, want)
		}
	}
}
