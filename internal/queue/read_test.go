package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fake is a source that does what a test says.
type fake func(context.Context) (Reading, error)

func (f fake) Read(ctx context.Context) (Reading, error) { return f(ctx) }
func (f fake) Close() error                              { return nil }

func says(waiting float64, running ...float64) fake {
	return func(context.Context) (Reading, error) {
		r := Reading{Waiting: waiting}
		if len(running) > 0 {
			r.Running = &running[0]
		}
		return r, nil
	}
}

func fails(err error) fake {
	return func(context.Context) (Reading, error) { return Reading{}, err }
}

func aged(d time.Duration) fake {
	return func(context.Context) (Reading, error) { return Reading{Waiting: 1, Oldest: &d}, nil }
}

// newQueue has sources a, b and so on, with a target of 1 and a second each.
func newQueue(combine string, activation float64, sources ...Source) *Queue {
	q := &Queue{Name: "tasks", Combine: combine, Activation: activation}
	slots := make(chan struct{}, maxAsked)
	for i, s := range sources {
		q.sources = append(q.sources, &member{
			label: string(rune('a' + i)), target: 1, timeout: time.Second, source: s, slots: slots, busy: make(chan struct{}, 1),
		})
	}
	return q
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func show(d Depth, err error) string {
	running := "?"
	if d.Running != nil {
		running = fmt.Sprint(*d.Running)
	}
	text := fmt.Sprintf("%v+%s needs %v active %v", d.Waiting, running, d.Need, d.Active)
	if d.Oldest != nil {
		text += " oldest " + d.Oldest.String()
	}
	if err != nil {
		text += ": " + err.Error()
	}
	return text
}

func TestCombine(t *testing.T) {
	gone := Fail(ErrUnreachable, "h:1")
	for _, c := range []struct {
		name string
		q    *Queue
		want string
	}{
		{"one", newQueue(Sum, 0, says(3, 2)), "3+2 needs 5 active true"},
		{"none", newQueue(Sum, 0, says(0, 0)), "0+0 needs 0 active false"},
		{"sum", newQueue(Sum, 0, says(3, 2), says(4)), "7+2 needs 9 active true"},
		{"max", newQueue(Max, 0, says(3, 2), says(4, 0)), "4+2 needs 5 active true"},
		{"max is of the work, not of its parts", newQueue(Max, 5, says(3, 2), says(4, 0)), "4+2 needs 5 active false"},
		{"sum is above", newQueue(Sum, 8, says(3, 2), says(4)), "7+2 needs 9 active true"},
		{"at is not above", newQueue(Sum, 5, says(3, 2)), "3+2 needs 5 active false"},
		{"oldest", newQueue(Sum, 0, says(1), aged(time.Minute), aged(time.Hour)), "3+? needs 3 active true oldest 1h0m0s"},
		{"one of two fails", newQueue(Sum, 0, says(3), fails(gone)), `3+? needs 3 active true: queue "tasks": 1 of 2 sources failed: b: queue server unreachable: h:1`},
		{"the only one fails", newQueue(Sum, 0, fails(gone)), `0+? needs 0 active false: queue "tasks": a: queue server unreachable: h:1`},
		{"both fail", newQueue(Max, 0, fails(gone), fails(gone)), `0+? needs 0 active false: queue "tasks": 2 of 2 sources failed: a: queue server unreachable: h:1; b: queue server unreachable: h:1`},
		{"no counts", newQueue(Sum, 0, says(math.NaN()), says(math.Inf(1)), says(-1), says(1, -1)), `0+? needs 0 active false: queue "tasks": 4 of 4 sources failed: ` +
			"a: queue server gave no valid answer: NaN is no count; b: queue server gave no valid answer: +Inf is no count; " +
			"c: queue server gave no valid answer: -1 is no count; d: queue server gave no valid answer: -1 is no count"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := c.q.Read(t.Context(), noon)
			if got := show(d, err); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if !d.At.Equal(noon) || len(d.Sources) != len(c.q.sources) {
				t.Errorf("at %s, of %d sources", d.At, len(d.Sources))
			}
			if strings.Contains(c.want, "unreachable") != errors.Is(err, ErrUnreachable) {
				t.Errorf("the class of %v", err)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	q := newQueue(Sum, 0, says(6, 2), says(3))
	q.sources[0].target, q.sources[1].target = 4, 0.5
	if got, want := show(q.Read(t.Context(), noon)), "9+2 needs 8 active true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	q.Combine = Max
	if got, want := show(q.Read(t.Context(), noon)), "6+2 needs 6 active true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMissing(t *testing.T) {
	q := newQueue(Sum, 0, fails(Fail(ErrMissing, "tasks")), fails(Fail(ErrAuth, "u")))
	if _, err := q.Read(t.Context(), noon); !errors.Is(err, ErrMissing) || !errors.Is(err, ErrAuth) {
		t.Errorf("got %v", err)
	}
	q.sources[0].missingIsZero, q.sources[1].missingIsZero = true, true
	d, err := q.Read(t.Context(), noon)
	if got, want := show(d, err), `0+? needs 0 active false: queue "tasks": 1 of 2 sources failed: b: queue server refused the credential: u`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if d.Sources[0].Err != nil {
		t.Errorf("a missing queue that counts as empty: %v", d.Sources[0].Err)
	}
}

// A library that panics is an error; one that never returns is left behind,
// once, and is asked again when it has.
func TestBrokenSources(t *testing.T) {
	panics := fake(func(context.Context) (Reading, error) { panic("hunter2") })
	if got, want := show(newQueue(Sum, 0, panics).Read(t.Context(), noon)), `0+? needs 0 active false: queue "tasks": a: queue server gave no valid answer: reading it panicked: string`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		wake := make(chan struct{})
		q := newQueue(Sum, 0, fake(func(context.Context) (Reading, error) {
			calls.Add(1)
			<-wake
			return Reading{Waiting: 7}, nil
		}), says(1))
		began := time.Now()
		for _, want := range []string{"does not end", "has not ended", "has not ended"} {
			d, err := q.Read(t.Context(), noon)
			if got := show(d, err); !strings.Contains(got, want) || d.Waiting != 1 {
				t.Errorf("got %s, want %q", got, want)
			}
		}
		if calls.Load() != 1 || time.Since(began) != time.Second+grace {
			t.Errorf("%d calls in %s", calls.Load(), time.Since(began))
		}
		close(wake)
		synctest.Wait()
		if got, want := show(q.Read(t.Context(), noon)), "8+? needs 8 active true"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// However many sources there are, only so many are asked at once, and one that
// does not get its turn is unknown.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		slow := fake(func(context.Context) (Reading, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(600 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return Reading{Waiting: 1}, nil
		})
		var sources []Source
		for range 2*maxAsked + 1 {
			sources = append(sources, slow)
		}
		d, err := newQueue(Sum, 0, sources...).Read(t.Context(), noon)
		if most != maxAsked {
			t.Errorf("%d sources at once, want %d", most, maxAsked)
		}
		if err == nil || !strings.Contains(err.Error(), "1 of 33 sources failed") || !strings.Contains(err.Error(), "its turn did not come") || d.Waiting != 2*maxAsked {
			t.Errorf("got %s", show(d, err))
		}
		synctest.Wait()
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		slow := &closing{read: func(context.Context) (Reading, error) {
			time.Sleep(700 * time.Millisecond)
			return Reading{}, nil
		}}
		stuck := &closing{read: func(context.Context) (Reading, error) {
			time.Sleep(time.Hour)
			return Reading{}, nil
		}, err: errors.New("stuck")}
		idle := &closing{}
		q := newQueue(Sum, 0, slow, stuck, idle)
		go func() { _ = q.sources[0].answer(t.Context()) }()
		go func() { _ = q.sources[1].answer(t.Context()) }()
		synctest.Wait()
		err := (&Set{Queues: []*Queue{q}}).Close()
		if err == nil || err.Error() != `close queue "tasks": b: stuck` {
			t.Errorf("got %v", err)
		}
		for i, want := range []time.Duration{700 * time.Millisecond, time.Second + grace, 0} {
			if got := []*closing{slow, stuck, idle}[i].at.Sub(began); got != want {
				t.Errorf("source %d was closed after %s, want %s", i, got, want)
			}
		}
		time.Sleep(2 * time.Hour)
	})
}

// closing is a source that knows when it was closed.
type closing struct {
	read fake
	err  error
	at   time.Time
}

func (c *closing) Read(ctx context.Context) (Reading, error) { return c.read(ctx) }
func (c *closing) Close() error                              { c.at = time.Now(); return c.err }

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := fake(func(ctx context.Context) (Reading, error) {
			<-ctx.Done()
			return Reading{}, Fail(ErrUnreachable, "in time")
		})
		began := time.Now()
		_, err := newQueue(Sum, 0, waits).Read(t.Context(), noon)
		if time.Since(began) != time.Second || !errors.Is(err, ErrUnreachable) {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began = time.Now()
		if _, err := newQueue(Sum, 0, waits).Read(ctx, noon); time.Since(began) != 100*time.Millisecond || err == nil {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestFail(t *testing.T) {
	var s Secrets
	for i := range 20 {
		s.Use(fmt.Sprintf("secret-%d", i))
		s.Use(fmt.Sprintf("secret-%d", i))
	}
	err := s.Fail(ErrAuth, "no secret-19\r\n\x1b[31m\u2028"+strings.Repeat("é", 1000)+" secret-18")
	if !errors.Is(err, ErrAuth) || strings.Contains(err.Error(), "secret-19") || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\r\x1b\u2028") {
		t.Errorf("got %q", err)
	}
	if diff := cmp.Diff("(redacted) ? x", Clean(" hunter2 \xff x\n", "hunter2", "")); diff != "" {
		t.Error(diff)
	}
	if err := Blot(Fail(ErrMissing, "hunter2"), "hunter2"); err.Error() != "there is no such queue: (redacted)" || !errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
	if err := Blot(errors.New("hunter2"), "hunter2"); err.Error() != "(redacted)" {
		t.Errorf("got %v", err)
	}
	for _, s := range []float64{-1, math.NaN(), math.Inf(1), 1e10} {
		if d := Seconds(s); d != nil {
			t.Errorf("%v seconds are %s", s, *d)
		}
	}
	if d := Seconds(1.5); d == nil || *d != 1500*time.Millisecond {
		t.Errorf("1.5 seconds are %v", d)
	}
}
