package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/plugins/apm"
	"github.com/hashicorp/nomad-autoscaler/plugins/base"
	"github.com/hashicorp/nomad-autoscaler/plugins/strategy"
	"github.com/hashicorp/nomad-autoscaler/plugins/target"
	"github.com/hashicorp/nomad-autoscaler/sdk"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// patience is how long a test waits for something that must happen. Nothing
// is measured with it.
const patience = 60 * time.Second

// hostLog is what the host hears from its plugins.
var (
	hostHeard = new(lockedBuffer)
	hostLog   = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: hostHeard})
)

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func goexit()           { runtime.Goexit() }
func infinite() float64 { return math.Inf(1) }
func foreignStatus(s string) error {
	return fmt.Errorf("some store: %w", status.Error(codes.Aborted, s))
}

// start launches a plugin of a kind and kills it when the test ends.
func start(t testing.TB, kind string, env ...string) (plug any, pid int, kill func()) {
	t.Helper()
	client, raw, err := launch(kind, env)
	if err != nil {
		t.Fatalf("launch: %v\n%s", err, hostHeard)
	}
	t.Cleanup(client.Kill)
	pid, err = strconv.Atoi(client.ID())
	if err != nil {
		t.Fatal(err)
	}
	return raw, pid, client.Kill
}

func eval(order string) *sdk.ScalingCheckEvaluation {
	return &sdk.ScalingCheckEvaluation{
		Check: &sdk.ScalingPolicyCheck{
			Name:     "demand",
			Strategy: &sdk.ScalingPolicyStrategy{Name: "naughty", Config: map[string]string{"do": order}},
		},
		Metrics: series(3),
	}
}

func do(order string) map[string]string { return map[string]string{"do": order} }

// calls are all methods that the autoscaler calls, each taking an order.
func calls(t *testing.T) map[string]func(order string) error {
	a, _, _ := start(t, "apm")
	g, _, _ := start(t, "target")
	s, _, _ := start(t, "strategy")
	now := sdk.TimeRange{From: time.Unix(1000, 0), To: time.Unix(2000, 0)}
	return map[string]func(string) error{
		"apm.SetConfig": func(o string) error { return a.(apm.APM).SetConfig(do(o)) },
		"apm.Query":     func(o string) error { _, err := a.(apm.APM).Query(o, now); return err },
		"apm.QueryMultiple": func(o string) error {
			_, err := a.(apm.APM).QueryMultiple(o, now)
			return err
		},
		"target.SetConfig": func(o string) error { return g.(target.Target).SetConfig(do(o)) },
		"target.Status":    func(o string) error { _, err := g.(target.Target).Status(do(o)); return err },
		"target.Scale": func(o string) error {
			return g.(target.Target).Scale(sdk.ScalingAction{Count: 1}, do(o))
		},
		"strategy.SetConfig": func(o string) error { return s.(strategy.Strategy).SetConfig(do(o)) },
		"strategy.Run":       func(o string) error { _, err := s.(strategy.Strategy).Run(eval(o), 4); return err },
	}
}

func TestEveryMethodSurvivesBugs(t *testing.T) {
	for name, call := range calls(t) {
		t.Run(name, func(t *testing.T) {
			for _, order := range []string{"panic of the disco", "panic of the disco", "panic-nil-map", "goexit"} {
				err := call(order)
				if status.Code(err) != codes.Internal {
					t.Errorf("%s: got %v, want an error of code Internal", order, err)
				}
			}
			if err := call(""); err != nil {
				t.Errorf("after the panics: %v", err)
			}
		})
	}
	heard := hostHeard.String()
	for _, want := range []string{"of the disco", "obey(", "recovered from a bug in the plugin, again"} {
		if !strings.Contains(heard, want) {
			t.Errorf("the host's log has no %q", want)
		}
	}
}

func TestErrorsDoNotStopTheAutoscaler(t *testing.T) {
	order := "error read tcp 10.1.0.11:623: connect: connection refused; then unexpected EOF, EOF, GEOFENCE"
	for name, call := range calls(t) {
		t.Run(name, func(t *testing.T) {
			err := call(order)
			if err == nil {
				t.Fatal("no error")
			}
			// policy/manager.go, isUnrecoverableError.
			for _, fatal := range []string{"connection refused", "EOF"} {
				if strings.Contains(err.Error(), fatal) {
					t.Errorf("%q contains %q", err, fatal)
				}
			}
			for _, want := range []string{"connection was refused", "unexpected end of file", "10.1.0.11:623"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not contain %q", err, want)
				}
			}
		})
	}
}

func TestPanicTextsAreSafeToo(t *testing.T) {
	raw, _, _ := start(t, "target")
	_, err := raw.(target.Target).Status(do("panic connection refused: EOF"))
	if err == nil || strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "EOF") {
		t.Errorf("got %v", err)
	}
}

func TestNoOpStaysNoOp(t *testing.T) {
	raw, _, _ := start(t, "target")
	scale := func(order string) error {
		return raw.(target.Target).Scale(sdk.ScalingAction{Count: 1}, do(order))
	}
	var noop *sdk.TargetScalingNoOpError
	if err := scale("noop already at 3, EOF"); !errors.As(err, &noop) || err.Error() != "pool h100: already at 3, end of file" {
		t.Errorf("got %T %v", err, err)
	}
	if err := scale("typed-nil-noop"); !errors.As(err, &noop) {
		t.Errorf("got %T %v", err, err)
	}
	if err := scale("foreign-status x"); err == nil || errors.As(err, &noop) {
		t.Errorf("an error that merely wraps codes.Aborted became a no-op: %v", err)
	}
}

func TestNilAnswers(t *testing.T) {
	now := sdk.TimeRange{From: time.Unix(1000, 0), To: time.Unix(2000, 0)}

	t.Run("apm", func(t *testing.T) {
		raw, _, _ := start(t, "apm", infoEnv+"=nil")
		a := raw.(apm.APM)
		if _, err := a.Query("nil", now); err == nil || !strings.Contains(err.Error(), `query "nil" has no points`) {
			t.Errorf("Query: %v", err)
		}
		if got, err := a.QueryMultiple("nil", now); err != nil || len(got) != 0 {
			t.Errorf("QueryMultiple: %v, %v", got, err)
		}
		if got, err := a.PluginInfo(); err != nil || *got != (base.PluginInfo{Name: "naughty", PluginType: "apm"}) {
			t.Errorf("PluginInfo: %v, %v", got, err)
		}
		if err := a.SetConfig(nil); err != nil {
			t.Errorf("SetConfig(nil): %v", err)
		}
	})
	t.Run("target", func(t *testing.T) {
		raw, _, _ := start(t, "target")
		g := raw.(target.Target)
		if _, err := g.Status(do("nil")); err == nil || !strings.Contains(err.Error(), "Status answered nothing") {
			t.Errorf("Status: %v", err)
		}
		if st, err := g.Status(nil); err != nil || st.Count != 7 {
			t.Errorf("Status(nil): %v, %v", st, err)
		}
		if st, err := g.Status(do("bad-text")); err != nil || st.Meta["a\uFFFD"] != "b\uFFFD" {
			t.Errorf("Status with bad text: %v, %v", st, err)
		}
		if err := g.Scale(sdk.ScalingAction{}, nil); err != nil {
			t.Errorf("Scale(nil): %v", err)
		}
	})
	t.Run("strategy", func(t *testing.T) {
		raw, _, _ := start(t, "strategy")
		s := raw.(strategy.Strategy)
		for _, order := range []string{"nil", "nil-action"} {
			got, err := s.Run(eval(order), 4)
			if err != nil {
				t.Errorf("%s: %v", order, err)
				continue
			}
			if got.Action.Count != 4 || got.Action.Direction != sdk.ScaleDirectionNone {
				t.Errorf("%s: %+v, want the count to stay", order, got.Action)
			}
		}
		if _, err := s.Run(eval("nil-meta"), 4); err != nil {
			t.Errorf("nil-meta: %v", err)
		}
		got, err := s.Run(eval("bad-numbers"), 4)
		if err != nil {
			t.Fatalf("bad-numbers: %v", err)
		}
		if got.Action.Meta["quantile"] != "+Inf" || got.Action.Meta["fine"] != 1.5 || got.Action.Reason != "half a rune \uFFFD" {
			t.Errorf("bad-numbers: %+v", got.Action)
		}
		e := eval("")
		e.Check.Strategy.Config = nil
		if got, err := s.Run(e, 4); err != nil || got.Action.Count != 5 {
			t.Errorf("nil config: %v, %v", got, err)
		}
	})
}

// A million points are about 25 MB, six times what gRPC takes by default.
func TestLongSeries(t *testing.T) {
	const points = 1_000_000
	a, _, _ := start(t, "apm")
	got, err := a.(apm.APM).Query(fmt.Sprintf("points %d", points), sdk.TimeRange{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != points || got[points-1].Value != points-1 {
		t.Fatalf("got %d points", len(got))
	}
	s, _, _ := start(t, "strategy")
	e := eval("")
	e.Metrics = got
	out, err := s.(strategy.Strategy).Run(e, 1)
	if err != nil {
		t.Fatal(err)
	}
	if out.Action.Meta["points"] != float64(points) {
		t.Errorf("the strategy saw %v points", out.Action.Meta["points"])
	}
}

// BenchmarkQuery measures one series from the plugin to the host: 28 days at
// one point a minute, and a million points.
func BenchmarkQuery(b *testing.B) {
	for _, points := range []int{28 * 24 * 60, 1_000_000} {
		b.Run(fmt.Sprintf("points=%d", points), func(b *testing.B) {
			raw, _, _ := start(b, "apm")
			query := fmt.Sprintf("points %d", points)
			for b.Loop() {
				if _, err := raw.(apm.APM).Query(query, sdk.TimeRange{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkStatus(b *testing.B) {
	raw, _, _ := start(b, "target")
	for b.Loop() {
		if _, err := raw.(target.Target).Status(nil); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCallsDuringSetConfig(t *testing.T) {
	raw, _, _ := start(t, "target")
	g := raw.(target.Target)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := g.SetConfig(do("")); err != nil {
					t.Errorf("SetConfig: %v", err)
				}
				if _, err := g.Status(do("")); err != nil {
					t.Errorf("Status: %v", err)
				}
				if err := g.Scale(sdk.ScalingAction{Count: 2}, do("")); err != nil {
					t.Errorf("Scale: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// The host gives Status three quarters of the evaluation interval.
func TestHangingCallEndsWithItsDeadline(t *testing.T) {
	raw, _, _ := start(t, "target")
	config := do("hang")
	config["_nomad_autoscaler_grpc_timeout"] = "100ms"
	if _, err := raw.(target.Target).Status(config); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	if _, err := raw.(target.Target).Status(do("")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestKillDuringSlowCall(t *testing.T) {
	exit := filepath.Join(t.TempDir(), "exit")
	raw, pid, kill := start(t, "target", exitEnv+"="+exit)
	g := raw.(target.Target)
	ended := make(chan error, 1)
	go func() { ended <- g.Scale(sdk.ScalingAction{Count: 1}, do("hang")) }()
	// A later call that is answered shows that the slow one does not block.
	if _, err := g.Status(do("")); err != nil {
		t.Fatal(err)
	}
	kill()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the hanging call succeeded")
		}
	case <-time.After(patience):
		t.Error("the hanging call did not end")
	}
	awaitGone(t, pid)
	wantOnExitOnce(t, exit)
}

func TestSIGTERM(t *testing.T) {
	exit := filepath.Join(t.TempDir(), "exit")
	raw, pid, _ := start(t, "target", exitEnv+"="+exit)
	g := raw.(target.Target)
	ended := make(chan error, 1)
	go func() { ended <- g.Scale(sdk.ScalingAction{Count: 1}, do("hang")) }()
	if _, err := g.Status(do("sleep 100ms")); err != nil { // Scale has arrived by then, or is cut off with the same answer
		t.Fatal(err)
	}
	signalPID(t, pid, syscall.SIGTERM)
	select {
	case err := <-ended:
		if err == nil || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "connection refused") {
			t.Errorf("the call in flight got %v", err)
		}
	case <-time.After(patience):
		t.Error("the call in flight did not end")
	}
	awaitGone(t, pid)
	wantOnExitOnce(t, exit)
}

func TestSIGTERMWithOnExitThatHangs(t *testing.T) {
	exit := filepath.Join(t.TempDir(), "exit")
	_, pid, _ := start(t, "target", exitEnv+"="+exit, slowEnv+"=1")
	signalPID(t, pid, syscall.SIGTERM)
	awaitGone(t, pid)
	wantOnExitOnce(t, exit)
}

func TestSIGHUPAndSIGINTAreNotDeadly(t *testing.T) {
	raw, pid, _ := start(t, "target")
	signalPID(t, pid, syscall.SIGHUP)
	signalPID(t, pid, syscall.SIGINT)
	for range 3 {
		if _, err := raw.(target.Target).Status(do("sleep 50ms")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostKilled(t *testing.T) {
	for name, env := range map[string][]string{
		"idle":            nil,
		"while it speaks": {marchEnv + "=1"},
		"behind a shell":  {shellEnv + "=1"},
	} {
		t.Run(name, func(t *testing.T) {
			exit := filepath.Join(t.TempDir(), "exit")
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			host := exec.Command(self)
			host.Env = append(env, roleEnv+"=host", kindEnv+"=target", exitEnv+"="+exit)
			out, err := host.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := host.Start(); err != nil {
				t.Fatal(err)
			}
			defer host.Wait()
			defer host.Process.Kill()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "plugin ")))
			if err != nil {
				t.Fatalf("the host says %q", line)
			}
			defer syscall.Kill(pid, syscall.SIGKILL)
			if err := host.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			awaitGone(t, pid)
			wantOnExitOnce(t, exit)
		})
	}
}

func TestRefusesWhatIsNoPlugin(t *testing.T) {
	if err := Serve(Config{Name: "x", Plugin: 42}); err == nil || !strings.Contains(err.Error(), "neither an APM") {
		t.Errorf("got %v", err)
	}
	if err := Serve(Config{Plugin: naughtyTarget{}}); err == nil || !strings.Contains(err.Error(), "Name is empty") {
		t.Errorf("got %v", err)
	}
}

func TestHostWatch(t *testing.T) {
	t0 := time.Unix(1000, 0)
	h := newHostWatch(t0, 10)
	check := func(when time.Time, parent int, want string) {
		t.Helper()
		if got := h.gone(when, parent); got != want {
			t.Errorf("gone(%v, parent %d) = %q, want %q", when.Sub(t0), parent, got, want)
		}
	}
	check(t0.Add(hostConnects-1), 10, "")
	check(t0.Add(hostConnects), 10, "no autoscaler was connected for 2m0s")
	check(t0, 1, "the autoscaler (pid 10) is gone")

	h.conns, h.connected = 1, true
	check(t0.Add(time.Hour), 10, "")
	h.conns, h.lostAt = 0, t0.Add(time.Hour)
	check(t0.Add(time.Hour+hostReconnects-1), 10, "")
	check(t0.Add(time.Hour+hostReconnects), 10, "no autoscaler was connected for 5s")
}

func TestSafeText(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"dial: connection refused": "dial: connection was refused",
		"EOF":                      "end of file",
		"io: EOF.":                 "io: end of file.",
		"GEOFENCE EOFEOF":          "GeofENCE eofeof",
		"bad \xff":                 "bad \uFFFD",
	} {
		if got := safeText(in); got != want {
			t.Errorf("safeText(%q) = %q, want %q", in, got, want)
		}
	}
	long := safeText(strings.Repeat("é", maxErrorText))
	if len(long) > maxErrorText+40 || !strings.HasSuffix(long, " more bytes)") {
		t.Errorf("a long text became %d bytes", len(long))
	}
}

func FuzzSafeText(f *testing.F) {
	f.Add("EEOFOF connection connection refused refused")
	f.Fuzz(func(t *testing.T, in string) {
		out := safeText(in)
		if strings.Contains(out, "EOF") || strings.Contains(out, "connection refused") {
			t.Errorf("safeText(%q) = %q", in, out)
		}
	})
}

func TestNewLoggerLevel(t *testing.T) {
	for env, want := range map[string]hclog.Level{"": hclog.Debug, "warn": hclog.Warn, "nonsense": hclog.Debug} {
		t.Setenv(LogEnv, env)
		if got := NewLogger("x").GetLevel(); got != want {
			t.Errorf("%s=%q: level %v, want %v", LogEnv, env, got, want)
		}
	}
}

func signalPID(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("signal %d to %d: %v", sig, pid, err)
	}
}

// awaitGone waits until a process is gone, or is a zombie that only its parent
// has not yet looked at.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		if _, state, ok := strings.Cut(string(stat), ") "); ok && strings.HasPrefix(state, "Z") {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("process %d is still there: %s", pid, stat)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func wantOnExitOnce(t *testing.T, path string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "OnExit ran\n" {
		t.Errorf("OnExit left %q, %v; want one line", got, err)
	}
}
