// Package consultest holds what tests need of Consul: the suite that every
// store of a pool's records passes, such a store in memory, and a real Consul
// server to run.
package consultest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
)

// Store is a pool's records, as package consul keeps them.
type Store interface {
	Want(ctx context.Context) (consul.Want, error)
	SetWant(ctx context.Context, w consul.Want) (consul.Want, error)
	Intents(ctx context.Context) (map[string]pool.Intent, error)
	Intend(ctx context.Context, l *consul.Lease, host string, in pool.Intent) (pool.Intent, error)
	Settle(ctx context.Context, l *consul.Lease, host string, in pool.Intent) (pool.Intent, error)
	Words(ctx context.Context) (map[string]pool.Said, error)
	Say(ctx context.Context, host string, s pool.Said) (pool.Said, error)
	Times(ctx context.Context) (map[string]pool.Times, error)
	PutTimes(ctx context.Context, l *consul.Lease, classes map[string]pool.Times) error
}

var (
	_ Store = (*consul.Pool)(nil)
	_ Store = (*Memory)(nil)
)

// Subject is an empty store under test, and the lease of its pool.
type Subject struct {
	Store
	// Lease wins the pool's lease. The lease that it returned before, if any,
	// has been given back.
	Lease func(t *testing.T) *consul.Lease
}

var at = time.Date(2026, 3, 29, 1, 59, 59, 123456789, time.UTC)

// Run runs the suite. Each test gets a new subject.
func Run(t *testing.T, newSubject func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"a pool begins empty", beginsEmpty},
		{"a want is read as it was written", wantRoundTrip},
		{"a stale want is refused", staleWant},
		{"of many who want at once, one wins", wantRace},
		{"an invalid want is refused", invalidWant},
		{"intents are read as they were written", intentRoundTrip},
		{"a stale intent is refused", staleIntent},
		{"an intent of another generation is fenced", otherGeneration},
		{"without the lease nothing is recorded", withoutLease},
		{"an outcome is recorded under a later generation", settleLater},
		{"a word stands until it is taken back", words},
		{"a stale word is refused", staleWord},
		{"times are read as they were written", timesRoundTrip},
		{"an ended context ends the call", endedContext},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newSubject(t)) })
	}
}

func beginsEmpty(t *testing.T, s Subject) {
	if _, err := s.Want(t.Context()); !errors.Is(err, consul.ErrNotFound) {
		t.Errorf("Want: got %v, want ErrNotFound", err)
	}
	if in, err := s.Intents(t.Context()); err != nil || len(in) != 0 {
		t.Errorf("Intents: got %v, %v", in, err)
	}
	if words, err := s.Words(t.Context()); err != nil || len(words) != 0 {
		t.Errorf("Words: got %v, %v", words, err)
	}
	if times, err := s.Times(t.Context()); err != nil || len(times) != 0 {
		t.Errorf("Times: got %v, %v", times, err)
	}
}

func wantRoundTrip(t *testing.T, s Subject) {
	w := consul.Want{Count: 3, Reason: `4 GPUs queued, "p90" of 2`, By: "autoscaler-1", At: at}
	set, err := s.SetWant(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	if set.Rev == 0 {
		t.Error("a written want has no revision")
	}
	w.Rev = set.Rev
	same(t, "SetWant", set, w)
	got, err := s.Want(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Want", got, w)
}

func staleWant(t *testing.T, s Subject) {
	first, err := s.SetWant(t.Context(), consul.Want{Count: 1, At: at})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetWant(t.Context(), consul.Want{Count: 9, At: at}); !errors.Is(err, consul.ErrStale) {
		t.Errorf("a first write over an existing want: got %v, want ErrStale", err)
	}
	second := first
	second.Count = 2
	if second, err = s.SetWant(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	first.Count = 9
	if _, err := s.SetWant(t.Context(), first); !errors.Is(err, consul.ErrStale) {
		t.Errorf("a write over revision %d, when it is %d: got %v, want ErrStale", first.Rev, second.Rev, err)
	}
	if got, err := s.Want(t.Context()); err != nil || got.Count != 2 {
		t.Errorf("after refused writes: got %+v, %v", got, err)
	}
}

func wantRace(t *testing.T, s Subject) {
	base, err := s.SetWant(t.Context(), consul.Want{Count: 1, At: at})
	if err != nil {
		t.Fatal(err)
	}
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			w := base
			w.Count = 10 + i
			_, errs[i] = s.SetWant(t.Context(), w)
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("writers %d and %d both won", winner, i)
		case !errors.Is(err, consul.ErrStale):
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if got, err := s.Want(t.Context()); err != nil || got.Count != 10+winner {
		t.Errorf("writer %d won, and the count is %d (%v)", winner, got.Count, err)
	}
}

func invalidWant(t *testing.T, s Subject) {
	for _, w := range []consul.Want{{Count: -1, At: at}, {Count: 1}} {
		if _, err := s.SetWant(t.Context(), w); err == nil {
			t.Errorf("%+v was accepted", w)
		}
	}
}

func intentRoundTrip(t *testing.T, s Subject) {
	l, gen := lease(t, s)
	in := pool.Intent{Verb: pool.SoftOff, Why: "surplus: 2 ready, 1 wanted", At: at, Gen: gen}
	open := intend(t, s, l, "h1", in)
	if open.Rev == 0 {
		t.Error("a written intent has no revision")
	}
	in.Rev = open.Rev
	same(t, "Intend", open, in)

	other := intend(t, s, l, "h2", pool.Intent{Verb: pool.TurnOn, Why: "job waits", At: at, Gen: gen})
	got, err := s.Intents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Intents", got, map[string]pool.Intent{"h1": in, "h2": other})

	done := open
	done.SettledAt, done.Err, done.Ambiguous = at.Add(time.Minute), "no answer from 10.0.0.7", true
	settled, err := s.Settle(t.Context(), l, "h1", done)
	if err != nil {
		t.Fatal(err)
	}
	if settled.Rev == open.Rev {
		t.Error("settling an intent did not change its revision")
	}
	done.Rev = settled.Rev
	if got, err = s.Intents(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "Intents after Settle", got, map[string]pool.Intent{"h1": done, "h2": other})
}

func staleIntent(t *testing.T, s Subject) {
	l, gen := lease(t, s)
	first := intend(t, s, l, "h1", pool.Intent{Verb: pool.Cordon, At: at, Gen: gen})
	blind := pool.Intent{Verb: pool.HardOff, At: at, Gen: gen}
	if _, err := s.Intend(t.Context(), l, "h1", blind); !errors.Is(err, consul.ErrStale) {
		t.Errorf("an intent over one it did not read: got %v, want ErrStale", err)
	}
	next := first
	next.Verb = pool.Drain
	intend(t, s, l, "h1", next)
	first.SettledAt = at
	if _, err := s.Settle(t.Context(), l, "h1", first); !errors.Is(err, consul.ErrStale) {
		t.Errorf("the outcome of an intent that was replaced: got %v, want ErrStale", err)
	}
	if got, err := s.Intents(t.Context()); err != nil || got["h1"].Verb != pool.Drain {
		t.Errorf("after refused writes: got %+v, %v", got, err)
	}
}

func otherGeneration(t *testing.T, s Subject) {
	l, gen := lease(t, s)
	for _, wrong := range []uint64{0, gen - 1, gen + 1} {
		in := pool.Intent{Verb: pool.HardOff, At: at, Gen: wrong}
		if _, err := s.Intend(t.Context(), l, "h1", in); !errors.Is(err, consul.ErrFenced) {
			t.Errorf("generation %d under %d: got %v, want ErrFenced", wrong, gen, err)
		}
	}
	if got, err := s.Intents(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("after fenced writes: got %+v, %v", got, err)
	}
}

func withoutLease(t *testing.T, s Subject) {
	old, oldGen := lease(t, s)
	open := intend(t, s, old, "h1", pool.Intent{Verb: pool.Drain, At: at, Gen: oldGen})
	l, gen := lease(t, s)
	if gen <= oldGen {
		t.Fatalf("generation %d follows %d", gen, oldGen)
	}
	in := pool.Intent{Verb: pool.HardOff, At: at, Gen: oldGen, Rev: open.Rev}
	if _, err := s.Intend(t.Context(), old, "h1", in); !errors.Is(err, consul.ErrFenced) {
		t.Errorf("Intend of a former holder: got %v, want ErrFenced", err)
	}
	open.SettledAt = at
	if _, err := s.Settle(t.Context(), old, "h1", open); !errors.Is(err, consul.ErrFenced) {
		t.Errorf("Settle of a former holder: got %v, want ErrFenced", err)
	}
	in.Gen = gen
	intend(t, s, l, "h1", in)
}

func settleLater(t *testing.T, s Subject) {
	l, gen := lease(t, s)
	open := intend(t, s, l, "h1", pool.Intent{Verb: pool.TurnOn, At: at, Gen: gen})
	l, _ = lease(t, s)
	open.SettledAt = at.Add(time.Second)
	if _, err := s.Settle(t.Context(), l, "h1", open); err != nil {
		t.Fatal(err)
	}
	got, err := s.Intents(t.Context())
	if err != nil || got["h1"].Gen != gen || got["h1"].SettledAt.IsZero() {
		t.Errorf("got %+v, %v; want it settled, and still of generation %d", got["h1"], err, gen)
	}
}

func words(t *testing.T, s Subject) {
	hold := pool.Said{Word: pool.WordHold, Reason: "fan 3 is loud", By: "ann@desk", At: at}
	said, err := s.Say(t.Context(), "h1", hold)
	if err != nil || said.Rev == 0 {
		t.Fatalf("got %+v, %v", said, err)
	}
	hold.Rev = said.Rev
	same(t, "Say", said, hold)
	got, err := s.Words(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Words", got, map[string]pool.Said{"h1": hold})

	on := said
	on.Word = pool.WordOn
	if on, err = s.Say(t.Context(), "h1", on); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Say(t.Context(), "h1", pool.Said{Rev: on.Rev}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Words(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("after it was taken back: %v, %v", got, err)
	}
	if _, err := s.Say(t.Context(), "h1", pool.Said{}); err != nil {
		t.Errorf("taken back twice: %v", err)
	}
}

func staleWord(t *testing.T, s Subject) {
	first, err := s.Say(t.Context(), "h1", pool.Said{Word: pool.WordHold, By: "ann", At: at})
	if err != nil {
		t.Fatal(err)
	}
	second := first
	second.By = "bob"
	if _, err := s.Say(t.Context(), "h1", second); err != nil {
		t.Fatal(err)
	}
	for what, stale := range map[string]pool.Said{
		"a word over a newer one":      {Word: pool.WordOff, By: "ann", At: at, Rev: first.Rev},
		"a first word where there is":  {Word: pool.WordOff, By: "ann", At: at},
		"an older word, taken back":    {Rev: first.Rev},
		"a word that is none, no time": {Word: pool.WordOff, By: "ann", Rev: first.Rev},
	} {
		if _, err := s.Say(t.Context(), "h1", stale); err == nil || !stale.At.IsZero() && !errors.Is(err, consul.ErrStale) {
			t.Errorf("%s: got %v, want ErrStale", what, err)
		}
	}
	if got, err := s.Words(t.Context()); err != nil || got["h1"].By != "bob" {
		t.Errorf("after refused writes: got %+v, %v", got, err)
	}
}

func timesRoundTrip(t *testing.T, s Subject) {
	old, _ := lease(t, s)
	l, _ := lease(t, s)
	times := map[string]pool.Times{
		"":     {Boot: pool.Took{Last: []float64{31.25, 30}}},
		"h100": {Drain: pool.Took{Last: []float64{0.5}}, Stop: pool.Took{Last: []float64{7}}},
	}
	if err := s.PutTimes(t.Context(), old, times); !errors.Is(err, consul.ErrFenced) {
		t.Errorf("PutTimes of a former holder: got %v, want ErrFenced", err)
	}
	if err := s.PutTimes(t.Context(), l, times); err != nil {
		t.Fatal(err)
	}
	got, err := s.Times(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Times", got, times)
}

func endedContext(t *testing.T, s Subject) {
	l, gen := lease(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in := pool.Intent{Verb: pool.TurnOn, At: at, Gen: gen, SettledAt: at}
	for name, call := range map[string]func() error{
		"Want":    func() error { _, err := s.Want(ctx); return err },
		"SetWant": func() error { _, err := s.SetWant(ctx, consul.Want{At: at}); return err },
		"Intents": func() error { _, err := s.Intents(ctx); return err },
		"Intend":  func() error { _, err := s.Intend(ctx, l, "h1", in); return err },
		"Settle":  func() error { _, err := s.Settle(ctx, l, "h1", in); return err },
		"Words":   func() error { _, err := s.Words(ctx); return err },
		"Say": func() error {
			_, err := s.Say(ctx, "h1", pool.Said{Word: pool.WordOn, At: at})
			return err
		},
		"Times":    func() error { _, err := s.Times(ctx); return err },
		"PutTimes": func() error { return s.PutTimes(ctx, l, map[string]pool.Times{}) },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", name, err)
		}
	}
}

func lease(t *testing.T, s Subject) (*consul.Lease, uint64) {
	t.Helper()
	l := s.Lease(t)
	hold, ok := l.Held(time.Now())
	if !ok || hold.Gen == 0 {
		t.Fatalf("the lease is not held: %v", l.Err())
	}
	return l, hold.Gen
}

func intend(t *testing.T, s Subject, l *consul.Lease, host string, in pool.Intent) pool.Intent {
	t.Helper()
	out, err := s.Intend(t.Context(), l, host, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, strings.TrimSpace(diff))
	}
}
