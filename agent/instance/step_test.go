package instance

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// TestScenarios plays the scripts in testdata/scenarios. Each line of a `play` is
// something that happens to an instance; a look takes a second, and `30 looks`
// half a minute. What is printed are the changes of its state, with the time
// since the beginning of the script. Rewrite the expected output with
//
//	go test ./agent/instance -run Scenarios -rewrite
//
// and commit the change only if you understand what caused it.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		sc := &scenario{rules: DefaultRules(), now: epoch}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "play" {
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				if err := sc.line(&out, strings.TrimSpace(line)); err != nil {
					d.Fatalf(t, "%q: %v", line, err)
				}
			}
			return out.String()
		})
	})
}

var epoch = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

type scenario struct {
	rules   Rules
	now     time.Time
	machine Machine
	sight   Sight
}

// line plays one line.
func (sc *scenario) line(out *strings.Builder, line string) error {
	words, note, _ := strings.Cut(line, ": ")
	f := strings.Fields(words)
	switch {
	case len(f) == 0 || strings.HasPrefix(line, "#"):
		return nil
	case words == "task pending" || words == "task ends":
		sc.sight.Task, sc.sight.TaskWhy = TaskPending, note
	case words == "task starts":
		sc.sight.Task, sc.sight.Started = TaskRunning, sc.now
	case words == "task has run for a day":
		sc.sight.Task, sc.sight.Started = TaskRunning, sc.now.Add(-24*time.Hour)
		return nil
	case words == "the agent is restarted":
		sc.machine = Machine{}
	case words == "task is started anew, unseen":
		sc.sight.Started = sc.now
		return nil
	case words == "the agent is restarted and finds it passing":
		sc.machine = Adopted(sc.sight.Started, sc.now, true, 0)
	case words == "the agent finds the process before passing":
		sc.machine = Adopted(sc.sight.Started.Add(-time.Hour), sc.now, true, 0)
	case words == "a warm-up request is configured":
		sc.sight.NeedsWarmUp = true
	case words == "the warm-up request is answered":
		sc.sight.WarmUp = &WarmUpOutcome{}
	case words == "the warm-up request fails":
		sc.sight.WarmUp = &WarmUpOutcome{errors.New(note)}
	case words == "gpu":
		sc.sight.GPU = note
	case words == "gpu is well":
		sc.sight.GPU = ""
	case words == "stop":
		sc.sight.Stop = note
	case words == "no stop":
		sc.sight.Stop = ""
	case words == "the agent wakes it":
		sc.sight.Woken = sc.now
		return nil
	case f[0] == "wait":
		d, err := time.ParseDuration(f[1])
		sc.now = sc.now.Add(d)
		if err != nil {
			return err
		}
	case len(f) > 1 && strings.HasPrefix(f[1], "look"):
		n, err := strconv.Atoi(f[0])
		if err != nil {
			return err
		}
		for range n {
			sc.now = sc.now.Add(time.Second)
			if sc.sight.Look, err = look(note, sc.now); err != nil {
				return err
			}
			sc.step(out)
		}
		return nil
	default:
		return errors.New("nobody knows what that means")
	}
	sc.step(out)
	return nil
}

// look reads "ready running=3 kv=0.5", as a look sees it.
func look(text string, now time.Time) (*engine.Look, error) {
	f := strings.Fields(text)
	health := map[string]engine.Health{"closed": engine.Closed, "silent": engine.Silent, "loading": engine.Loading, "failing": engine.Failing, "ready": engine.Ready, "asleep": engine.Ready}
	h, ok := health[f[0]]
	if !ok {
		return nil, fmt.Errorf("no look is %q", f[0])
	}
	l := &engine.Look{At: now, Health: h, Detail: "the server " + h.String()}
	if f[0] == "asleep" {
		yes := true
		l.Asleep = &yes
	}
	for _, w := range f[1:] {
		key, value, _ := strings.Cut(w, "=")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, err
		}
		if l.Reading == nil {
			l.Reading = &engine.Reading{Gauges: map[engine.Measure]float64{}}
		}
		l.Reading.Gauges[map[string]engine.Measure{"running": engine.Running, "waiting": engine.Waiting, "kv": engine.KVUsed}[key]] = v
	}
	return l, nil
}

// step takes a step, and tells of what changed.
func (sc *scenario) step(out *strings.Builder) {
	before := sc.machine
	sc.machine = Step(before, sc.sight, sc.rules, sc.now)
	sc.sight.Look, sc.sight.WarmUp = nil, nil
	m := sc.machine
	if m.State != before.State {
		fmt.Fprintf(out, "%s %s: %s", sc.now.Sub(epoch), m.State, m.Why)
		if m.Warmed.Equal(sc.now) && m.Took > 0 {
			fmt.Fprintf(out, " (took %s from %s)", m.Took, m.TookFrom)
		}
		fmt.Fprintln(out)
	}
	if m.Ask && !before.Ask {
		fmt.Fprintf(out, "%s -> send the warm-up request\n", sc.now.Sub(epoch))
	}
}

// TestLaws holds any history against what must be true of every step.
func TestLaws(t *testing.T) {
	rules := DefaultRules()
	rapid.Check(t, func(t *rapid.T) {
		var m Machine
		s := Sight{NeedsWarmUp: rapid.Bool().Draw(t, "warm-up")}
		now := epoch
		good := 0 // looks in a row at this process
		answered := false
		var fell time.Time // this process, last
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "s")) * time.Second)
			s.Look, s.WarmUp = nil, nil
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				now = now.Add(time.Millisecond) // no two processes start at once
				s.Task, s.Started, good, answered, fell = TaskRunning, now, 0, false, time.Time{}
			case 1:
				s.Task, good, answered = TaskPending, 0, false
			case 2:
				s.GPU = rapid.SampledFrom([]string{"", "lost"}).Draw(t, "gpu")
			case 3:
				s.Stop = rapid.SampledFrom([]string{"", "drained"}).Draw(t, "stop")
			case 4:
				if m.Ask {
					s.WarmUp = &WarmUpOutcome{}
					answered = s.Task == TaskRunning
				}
			default:
				s.Look, _ = look(rapid.SampledFrom([]string{"ready", "ready", "ready running=1", "ready waiting=2 kv=0.99", "closed", "silent", "asleep", "loading"}).Draw(t, "look"), now)
				switch {
				case s.Task != TaskRunning:
				case s.Look.Health == engine.Ready && s.Look.Asleep == nil:
					good++
				default:
					good = 0
				}
			}
			before := m
			m = Step(m, s, rules, now)
			switch {
			case m.State.Ready() && (s.Stop != "" || s.GPU != "" || s.Task != TaskRunning):
				t.Fatalf("ready though it is to stop, lost a GPU or does not run: %+v", s)
			case m.State.Ready() && !before.State.Ready() && good < rules.GoodLooks:
				t.Fatalf("became ready after %d good looks", good)
			case m.State.Ready() && s.NeedsWarmUp && !answered:
				t.Fatalf("ready without an answer to the warm-up request")
			case m.State == fleet.Draining && s.Stop == "", m.State != fleet.Draining && s.Stop != "":
				t.Fatalf("%s with stop %q", m.State, s.Stop)
			case m.State.Ready() && !fell.IsZero() && now.Sub(fell) < rules.FirstHold:
				t.Fatalf("ready %s after it fell", now.Sub(fell))
			case m.Why == "":
				t.Fatalf("%s without a reason", m.State)
			case m.Since.After(now), m.State != before.State && !m.Since.Equal(now):
				t.Fatalf("%s since %s at %s", m.State, m.Since, now)
			}
			if m.State == fleet.Unhealthy && before.State != fleet.Unhealthy {
				fell = now
			}
			// The same sight again changes nothing but what time does.
			again := s
			again.Look, again.WarmUp = nil, nil
			if twice := Step(m, again, rules, now); twice.State != m.State || twice.Changes != m.Changes {
				t.Fatalf("%s, and with nothing new %s: %s", m.State, twice.State, twice.Why)
			}
		}
	})
}
