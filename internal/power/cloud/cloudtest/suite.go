package cloudtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

const (
	plenty = time.Minute      // a deadline that a busy machine meets
	short  = time.Second      // of calls that are expected to run into it
	grace  = 10 * time.Second // after a deadline, to tell a driver that obeys from one that hangs
)

// Rig is a driver and its simulator.
type Rig struct {
	// Start starts a cloud with machines that are off.
	Start func(t *testing.T, ids ...string) *Cloud
	// ID is an ID by number.
	ID func(n int) string
	// Open opens a driver of one of them, with the right credential.
	Open func(c *Cloud, id string) (power.Driver, error)
	// OpenInsecure opens one that talks to whoever answers.
	OpenInsecure func(c *Cloud, id string) (power.Driver, error)
	// Rights is what an audit says of the credential's.
	Rights string
	// IsChange says whether a request is a change.
	IsChange func(r *http.Request) bool
	// Phases are those that the cloud knows besides Off and On.
	Phases []cloud.Phase
	// Secret is what no error may show.
	Secret string
}

// Frames are the frames that the goroutines of a driver have, for the rig of
// package powertest.
func Frames(driver string) []string {
	return []string{"internal/power/" + driver + ".", "internal/power/cloud.(", "net/http.(*persistConn)", "net/http.(*Transport)"}
}

// HasInBody says whether a request's body contains a text, and leaves it as it
// is.
func HasInBody(r *http.Request, text string) bool {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // what cannot be read does not have it
	r.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte(text))
}

// Run holds a driver to what clouds have beyond power controllers.
func Run(t *testing.T, rig Rig) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Rig)
	}{
		{"many hosts, few requests", manyHosts},
		{"one that is not there", absent},
		{"put off", putOff},
		{"put off for ever", putOffForEver},
		{"phases", phases},
		{"slow boot", slowBoot},
		{"one credential, one refusal", oneRefusal},
		{"closing one leaves the others", closingOne},
		{"hostile answers to reads", func(t *testing.T, rig Rig) { hostile(t, rig, false) }},
		{"hostile answers to changes", func(t *testing.T, rig Rig) { hostile(t, rig, true) }},
		{"certificates", certificates},
		{"audit", audit},
		{"audit of what is unsafe", auditUnsafe},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, rig)
		})
	}
}

// open opens a driver and closes it at the end of the test.
func (rig Rig) open(t *testing.T, c *Cloud, id string) power.Driver {
	t.Helper()
	d, err := rig.Open(c, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// call makes a call with a deadline and checks its error.
func (rig Rig) call(t *testing.T, limit time.Duration, f func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	err := f(ctx)
	if took := time.Since(began); took > limit+grace {
		t.Errorf("back after %s, and the deadline was %s", took, limit)
	}
	if err != nil {
		text := err.Error()
		if rig.Secret != "" && strings.Contains(text, rig.Secret) || strings.ContainsAny(text, "\n\r\x1b\x00") || len(text) > 1000 {
			t.Errorf("unsafe for a log: %q", text)
		}
		if strings.Contains(text, "bug of gpupool") {
			t.Errorf("a panic: %s", text)
		}
	}
	return err
}

func (rig Rig) state(t *testing.T, limit time.Duration, d power.Driver) (found pool.Power, err error) {
	t.Helper()
	err = rig.call(t, limit, func(ctx context.Context) (err error) {
		found, err = d.State(ctx)
		return err
	})
	if (err == nil) == (found == pool.PowerUnknown) {
		t.Errorf("power is %s with the error %v", found, err)
	}
	return found, err
}

func want(t *testing.T, what string, err, class error, says ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: %v, want the class %q", what, err, class)
	}
	for _, s := range says {
		if !strings.Contains(fmt.Sprint(err), s) {
			t.Errorf("%s: %v, want %q in it", what, err, s)
		}
	}
}

// wantSoon is want of a call that has little time. On a machine that stands still
// for a while a deadline may pass before anything was asked: then it gets more.
func wantSoon(t *testing.T, what string, class error, call func(limit time.Duration) error, says ...string) {
	t.Helper()
	for limit := short; ; limit *= 4 {
		err := call(limit)
		said := errors.Is(err, class)
		for _, s := range says {
			said = said && strings.Contains(err.Error(), s)
		}
		if !said && errors.Is(err, context.DeadlineExceeded) && limit < plenty {
			continue
		}
		want(t, what, err, class, says...)
		return
	}
}

// on powers on within a limit, for [wantSoon].
func (rig Rig) on(t *testing.T, d power.Driver) func(time.Duration) error {
	return func(limit time.Duration) error { return rig.call(t, limit, d.On) }
}

// read reads the power within a limit, for [wantSoon].
func (rig Rig) read(t *testing.T, d power.Driver) func(time.Duration) error {
	return func(limit time.Duration) error {
		_, err := rig.state(t, limit, d)
		return err
	}
}

func manyHosts(t *testing.T, rig Rig) {
	const hosts = 100
	var ids []string
	for n := range hosts {
		ids = append(ids, rig.ID(n+1))
	}
	c := rig.Start(t, ids...)
	var drivers []power.Driver
	for n, id := range ids {
		if n%3 == 0 {
			c.Set(id, cloud.Instance{Phase: cloud.On})
		}
		drivers = append(drivers, rig.open(t, c, id))
	}
	var wg sync.WaitGroup
	for n, d := range drivers {
		wg.Go(func() {
			found, err := rig.state(t, plenty, d)
			if wanted := map[bool]pool.Power{true: pool.PowerOn, false: pool.PowerOff}[n%3 == 0]; err != nil || found != wanted {
				t.Errorf("%s is %s, %v, want %s", ids[n], found, err, wanted)
			}
		})
	}
	wg.Wait()
	// A busy machine may start some reads late, so that they miss their
	// companions; a login may be some requests more.
	n := len(c.Requests(""))
	t.Logf("a sweep over %d hosts took %d requests, logins included", hosts, n)
	if n > hosts/4 {
		t.Errorf("a sweep over %d hosts took %d requests", hosts, n)
	}
}

func absent(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1))
	here, gone := rig.open(t, c, rig.ID(1)), rig.open(t, c, rig.ID(2))
	var wg sync.WaitGroup
	wg.Go(func() {
		if found, err := rig.state(t, plenty, here); err != nil || found != pool.PowerOff {
			t.Errorf("the one that is there: %s, %v", found, err)
		}
	})
	wg.Go(func() {
		_, err := rig.state(t, plenty, gone)
		want(t, "the one that is not", err, power.ErrRefused, "correct the inventory")
	})
	wg.Wait()
	want(t, "on", rig.call(t, plenty, gone.On), power.ErrRefused)
}

func putOff(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1))
	d := rig.open(t, c, rig.ID(1))
	c.Throttle(2)
	if found, err := rig.state(t, plenty, d); err != nil || found != pool.PowerOff {
		t.Fatalf("a read that was put off: %s, %v", found, err)
	}
	c.Throttle(1)
	if err := rig.call(t, plenty, d.On); err != nil {
		t.Fatalf("on, put off: %v", err)
	}
	if c.Power() != pool.PowerOn || c.Executions() != 1 {
		t.Errorf("the machine is %s after %d changes", c.Power(), c.Executions())
	}
}

func putOffForEver(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1))
	d := rig.open(t, c, rig.ID(1))
	c.Say(Throttled, Start)
	wantSoon(t, "on", power.ErrRefused, rig.on(t, d), "too often")
	c.Throttle(-1)
	wantSoon(t, "state", power.ErrUnreachable, rig.read(t, d), "too often")
	if n := len(c.Requests("")); n > 30 {
		t.Errorf("it was asked %d times", n)
	}
	if c.Executions() != 0 {
		t.Error("a change that was put off was carried out")
	}
}

// phases are what a driver reads and does in each.
func phases(t *testing.T, rig Rig) {
	type answer = error
	var done answer // nothing to do, or done
	for _, p := range []struct {
		name           string
		phase          cloud.Phase
		power          pool.Power
		state          answer
		on, soft, hard answer
		changes        int // of on, soft and hard together, each from that phase
	}{
		{"off", cloud.Off, pool.PowerOff, done, done, done, done, 1},
		{"on", cloud.On, pool.PowerOn, done, done, done, done, 2},
		{"starting", cloud.Starting, pool.PowerOn, done, done, done, done, 2},
		{"stopping", cloud.Stopping, pool.PowerOn, done, power.ErrRefused, done, done, 1},
		{"busy", cloud.Busy, pool.PowerOn, done, power.ErrRefused, power.ErrRefused, done, 1},
		{"leaving", cloud.Leaving, pool.PowerOn, done, power.ErrRefused, done, done, 0},
		{"gone", cloud.Gone, pool.PowerUnknown, power.ErrRefused, power.ErrRefused, power.ErrRefused, power.ErrRefused, 0},
		{"fault", cloud.Fault, pool.PowerUnknown, power.ErrRefused, power.ErrRefused, power.ErrRefused, power.ErrRefused, 0},
		{"unknown", cloud.Unknown, pool.PowerUnknown, power.ErrUnreachable, power.ErrUnreachable, power.ErrUnreachable, power.ErrUnreachable, 0},
	} {
		if p.phase != cloud.Off && p.phase != cloud.On && !slices.Contains(rig.Phases, p.phase) {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			c := rig.Start(t, rig.ID(1))
			d := rig.open(t, c, rig.ID(1))
			is := func() { c.Set(rig.ID(1), cloud.Instance{Phase: p.phase}) }
			check := func(what string, err, class error) {
				t.Helper()
				if !errors.Is(err, class) {
					t.Errorf("%s: %v, want %v", what, err, class)
				}
			}
			is()
			found, err := rig.state(t, plenty, d)
			if found != p.power {
				t.Errorf("power is %s, want %s", found, p.power)
			}
			check("state", err, p.state)
			check("on", rig.call(t, plenty, d.On), p.on)
			is()
			check("soft off", rig.call(t, plenty, func(ctx context.Context) error { return d.Off(ctx, power.Soft) }), p.soft)
			is()
			check("hard off", rig.call(t, plenty, func(ctx context.Context) error { return d.Off(ctx, power.Hard) }), p.hard)
			if n := c.Executions(); n != p.changes {
				t.Errorf("%d changes were made, want %d", n, p.changes)
			}
		})
	}
}

func slowBoot(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1))
	d := rig.open(t, c, rig.ID(1))
	c.Transit(700 * time.Millisecond)
	settles := func(to pool.Power) {
		t.Helper()
		for end := time.Now().Add(plenty); time.Now().Before(end); {
			found, err := rig.state(t, plenty, d)
			if err != nil {
				t.Fatalf("on its way: %v", err)
			}
			if i, _ := c.Get(rig.ID(1)); found == to && (i.Phase == cloud.On || i.Phase == cloud.Off) {
				return
			}
		}
		t.Fatalf("it does not get to %s", to)
	}
	if err := rig.call(t, plenty, d.On); err != nil {
		t.Fatal(err)
	}
	if err := rig.call(t, plenty, d.On); err != nil {
		t.Errorf("on again, while it starts: %v", err)
	}
	settles(pool.PowerOn)
	if err := rig.call(t, plenty, func(ctx context.Context) error { return d.Off(ctx, power.Soft) }); err != nil {
		t.Fatal(err)
	}
	settles(pool.PowerOff)
	if c.Executions() != 2 {
		t.Errorf("%d changes, want 2", c.Executions())
	}
}

// oneRefusal: hosts that share a credential share its refusal.
func oneRefusal(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1), rig.ID(2))
	one, other := rig.open(t, c, rig.ID(1)), rig.open(t, c, rig.ID(2))
	c.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		c.protocol.Fail(w, BadLogin)
		return true
	})
	_, err := rig.state(t, plenty, one)
	want(t, "the first", err, power.ErrAuth)
	sent := len(c.Requests(""))
	_, err = rig.state(t, plenty, other)
	want(t, "the other", err, power.ErrAuth, "not tried again before")
	want(t, "the other's on", rig.call(t, plenty, other.On), power.ErrAuth)
	if n := len(c.Requests("")); n != sent {
		t.Errorf("%d more requests after a refused credential", n-sent)
	}
}

func closingOne(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1), rig.ID(2))
	one, other := rig.open(t, c, rig.ID(1)), rig.open(t, c, rig.ID(2))
	for _, d := range []power.Driver{one, other} {
		if _, err := rig.state(t, plenty, d); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(one.Close(), one.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := rig.state(t, plenty, one)
	want(t, "the closed one", err, power.ErrUnreachable)
	if _, err := rig.state(t, plenty, other); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// hostile is a cloud, or whoever sits in its place, that answers anything.
func hostile(t *testing.T, rig Rig, changes bool) {
	var visits atomic.Int32
	elsewhere := loopback.Start(t, loopback.Options{}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	page := func(status int, body string) func(*Cloud, http.ResponseWriter) {
		return func(_ *Cloud, w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, h := range []struct {
		name   string
		answer func(*Cloud, http.ResponseWriter)
		read   error
		change error
	}{
		{"empty", page(200, ""), power.ErrUnreachable, power.ErrAmbiguous},
		{"null", page(200, "null"), power.ErrUnreachable, power.ErrAmbiguous},
		{"a page", page(200, "<html><body>Sign in to the hotel's network"), power.ErrUnreachable, power.ErrAmbiguous},
		{"binary", page(200, "\x00\xff\xfe\x1b[2J\n\n"), power.ErrUnreachable, power.ErrAmbiguous},
		{"deep JSON", page(200, strings.Repeat(`[`, 200_000)), power.ErrUnreachable, power.ErrAmbiguous},
		{"deep XML", page(200, strings.Repeat(`<a>`, 200_000)), power.ErrUnreachable, power.ErrAmbiguous},
		{"huge", func(_ *Cloud, w http.ResponseWriter) {
			chunk := bytes.Repeat([]byte(" "), 1<<20)
			for range 2*https.MaxBody>>20 + 1 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, power.ErrUnreachable, power.ErrAmbiguous},
		{"a drip", func(c *Cloud, w http.ResponseWriter) {
			for {
				if _, err := io.WriteString(w, " "); err != nil {
					return
				}
				if http.NewResponseController(w).Flush() != nil {
					return
				}
				c.Sleep(50 * time.Millisecond)
			}
		}, power.ErrUnreachable, power.ErrAmbiguous},
		{"cut off", func(*Cloud, http.ResponseWriter) { panic(http.ErrAbortHandler) }, power.ErrUnreachable, power.ErrAmbiguous},
		{"cut off in the middle", func(_ *Cloud, w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "{")
			panic(http.ErrAbortHandler)
		}, power.ErrUnreachable, power.ErrAmbiguous},
		{"redirect", func(_ *Cloud, w http.ResponseWriter) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, power.ErrRefused, power.ErrRefused},
		{"a proxy's error", page(502, "<html>Bad Gateway"), power.ErrUnreachable, power.ErrAmbiguous},
		{"an error without words", page(500, ""), power.ErrUnreachable, power.ErrAmbiguous},
		{"forbidden", page(403, "{}"), power.ErrRefused, power.ErrRefused},
	} {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			c := rig.Start(t, rig.ID(1))
			d := rig.open(t, c, rig.ID(1))
			if changes {
				c.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					if !rig.IsChange(r) {
						return false
					}
					h.answer(c, w)
					return true
				})
				wantSoon(t, "on", h.change, rig.on(t, d))
				return
			}
			all := func(c *Cloud) {
				c.Intercept(func(w http.ResponseWriter, _ *http.Request) bool { h.answer(c, w); return true })
			}
			all(c)
			if _, err := rig.state(t, short, d); err == nil {
				t.Error("a first read, login included, went well")
			}

			c = rig.Start(t, rig.ID(1), rig.ID(2))
			one, other := rig.open(t, c, rig.ID(1)), rig.open(t, c, rig.ID(2))
			if _, err := rig.state(t, plenty, one); err != nil {
				t.Fatal(err)
			}
			all(c)
			wantSoon(t, "state", h.read, rig.read(t, one))
			var wg sync.WaitGroup // several may be read another way than one
			for _, d := range []power.Driver{one, other} {
				wg.Go(func() {
					wantSoon(t, "state of one of two", h.read, rig.read(t, d))
				})
			}
			wg.Wait()
		})
	}
	t.Cleanup(func() {
		if n := visits.Load(); n > 0 {
			t.Errorf("%d requests went to where a redirect led", n)
		}
	})
}

// certificates: an endpoint that cannot prove that it is the cloud gets no
// credential.
func certificates(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1))
	other := rig.Start(t, rig.ID(1))
	impostor := &loopback.Server{URL: c.URL, CAFile: other.CAFile}
	d := rig.open(t, &Cloud{Server: impostor}, rig.ID(1))
	_, err := rig.state(t, plenty, d)
	want(t, "state", err, power.ErrUnreachable, "is not trusted", `fingerprint = "`+c.Fingerprint+`"`)
	if n := len(c.Requests("")); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// audits are the findings on a driver, by what they are about.
func (rig Rig) audits(t *testing.T, d power.Driver) map[string]power.Finding {
	t.Helper()
	found := make(map[string]power.Finding)
	_ = rig.call(t, plenty, func(ctx context.Context) error {
		for _, f := range d.(power.Auditor).Audit(ctx) {
			if f.Level != power.Good && f.Mend == "" {
				t.Errorf("%s: %s, and no mend", f.About, f.What)
			}
			if text := f.What + f.Mend; rig.Secret != "" && strings.Contains(text, rig.Secret) {
				t.Errorf("an audit spills a credential: %s", text)
			}
			if found[f.About].Level <= f.Level {
				found[f.About] = f
			}
		}
		return nil
	})
	return found
}

func says(t *testing.T, found map[string]power.Finding, about string, level power.Level, what string) {
	t.Helper()
	if f := found[about]; f.Level != level || !strings.Contains(f.What, what) || what == "" {
		t.Errorf("%s: %s: %q, want %s: %q", about, f.Level, f.What, level, what)
	}
}

// audit: what is well is found so, and nothing is changed.
func audit(t *testing.T, rig Rig) {
	for _, phase := range []cloud.Phase{cloud.Off, cloud.On} {
		c := rig.Start(t, rig.ID(1))
		c.Set(rig.ID(1), cloud.Instance{Phase: phase})
		found := rig.audits(t, rig.open(t, c, rig.ID(1)))
		says(t, found, "certificate", power.Warning, "TLS 1.3, good until") // as certificates of tests are
		says(t, found, "clock", power.Good, "not seen to be more than 3s apart")
		says(t, found, "rights", power.Good, rig.Rights)
		if i, _ := c.Get(rig.ID(1)); i.Phase != phase || c.Executions() != 0 {
			t.Errorf("after an audit there were %d changes", c.Executions())
		}
	}
}

func auditUnsafe(t *testing.T, rig Rig) {
	c := rig.Start(t, rig.ID(1))
	d, err := rig.OpenInsecure(c, rig.ID(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // it returns none
	if _, err := rig.state(t, plenty, d); err != nil {
		t.Fatal(err)
	}
	c.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Date", time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat))
		return false
	})
	found := rig.audits(t, d)
	says(t, found, "certificate", power.Wrong, "not verified")
	says(t, found, "clock", power.Warning, "behind this machine's")

	// A cloud that fails is told with the reading of the power.
	c.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	if found := rig.audits(t, d); len(found) != 1 {
		t.Errorf("of a cloud that fails: %+v", found)
	}
}
