package notice

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

// servers is a Nomad that a test looks at, and the hold of its host.
type servers struct {
	mu   sync.Mutex
	err  error
	ours bool // the last drain is the leaver's
	seen
}

// seen is what a test looks at.
type seen struct {
	drains []nomad.DrainSpec
	back   int
	hold   string
}

func (s *servers) look() seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func (s *servers) Hold(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = why
}

func (s *servers) NodeID(context.Context, string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "id", s.err
}

func (s *servers) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *servers) Drain(_ context.Context, _ string, spec nomad.DrainSpec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drains = append(s.drains, spec)
	s.ours = true
	return nil
}

func (s *servers) GiveBack(context.Context, string, string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ours {
		return false, nil
	}
	s.back++
	s.ours = false
	return true, nil
}

// pass lets time pass, and all that happens in it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// leaving runs a leaver in a bubble, for a host whose notices are those of source.
func leaving(t *testing.T, nodes *servers, source *said) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); synctest.Wait() })
	log := slog.New(slog.DiscardHandler)
	w := New(Config{Sources: map[string]Source{"test": source}, Log: log})
	l := NewLeaver(LeaverConfig{Watch: w, Hold: nodes.Hold, Nomad: nodes, Node: "gpu-1", Log: log})
	go w.Run(ctx)
	go l.Run(ctx)
}

func TestLeavingWithTheTimeThatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, source := new(servers), new(said)
		leaving(t, nodes, source)
		pass(time.Minute)
		if got := nodes.look(); len(got.drains) != 0 || got.back != 0 || got.hold != "" {
			t.Fatalf("all is well: %+v", got)
		}
		source.set(nil, Notice{ID: "likely", What: "may go", Likely: true})
		pass(time.Minute)
		if got := nodes.look(); len(got.drains) != 0 || got.hold != "" {
			t.Errorf("it may go: %+v", got)
		}
		source.set(nil, Notice{ID: "spot", What: "goes", By: time.Now().Add(2 * time.Minute)})
		pass(time.Minute)
		got := nodes.look()
		if len(got.drains) != 1 || got.drains[0].Pool != Mark || got.hold != "goes" {
			t.Fatalf("it goes: %+v", got)
		}
		if d := got.drains[0].Deadline; d < 105*time.Second || d > 115*time.Second {
			t.Errorf("two minutes before the end the drain has %s", d)
		}
		source.set(nil)
		pass(time.Minute)
		if got := nodes.look(); got.back != 1 || got.hold != "" {
			t.Errorf("it stays after all: %+v", got)
		}
	})
}

// A notice whose time is over, or all but, leaves work a second to end; one
// without a time leaves it all the time that it wants.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, source := new(servers), new(said)
		leaving(t, nodes, source)
		source.set(nil, Notice{ID: "past", By: time.Now().Add(-time.Hour)})
		pass(10 * time.Second)
		source.set(nil, Notice{ID: "open"})
		pass(10 * time.Second)
		if got := nodes.look().drains; len(got) != 2 || got[0].Deadline != time.Second || got[1].Deadline != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// After a restart nothing is given back before every source was asked: the
// notice may still stand.
func TestNothingIsGivenBackOnHalfAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, source := &servers{ours: true}, new(said)
		source.set(errors.New("no route"))
		leaving(t, nodes, source)
		pass(time.Minute)
		if nodes.look().back != 0 {
			t.Error("given back although nobody knows whether the host goes")
		}
		source.set(nil)
		pass(time.Minute)
		if got := nodes.look().back; got != 1 {
			t.Errorf("given back %d times", got)
		}
	})
}

func TestNomadIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, source := new(servers), new(said)
		nodes.fail(errors.New("no leader"))
		leaving(t, nodes, source)
		source.set(nil, Notice{ID: "spot"})
		pass(time.Minute)
		nodes.fail(nil)
		pass(3 * time.Second)
		if got := nodes.look().drains; len(got) != 1 {
			t.Errorf("drains: %+v", got)
		}
	})
}

// With a real Nomad: the node is drained, held to every pool, and given back
// when the notice is gone, by another process than the one that drained it.
func TestNodeOfARealNomad(t *testing.T) {
	server := nomadtest.Start(t, "")
	server.Run()
	host := server.Client("gpu-1", "")
	host.Run()
	client, err := nomad.New(nomad.Config{API: &api.Config{Address: server.API().Address()}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	source := new(said)
	process := func() *Leaver {
		w := New(Config{Sources: map[string]Source{"test": source}, Log: log})
		w.look(t.Context(), "test", source)
		return NewLeaver(LeaverConfig{Watch: w, Nomad: client, Node: "gpu-1", Log: log})
	}
	source.set(nil, Notice{ID: "spot", What: "goes", By: time.Now().Add(time.Minute)})
	if err := process().step(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	node, err := host.Node()
	if err != nil || node.SchedulingEligibility != api.NodeSchedulingIneligible || node.LastDrain == nil || node.LastDrain.Meta["gpupool_pool"] != Mark {
		t.Fatalf("after the notice: %+v, %v", node, err)
	}
	source.set(nil)
	if err := process().step(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if node, err = host.Node(); err != nil || node.SchedulingEligibility != api.NodeSchedulingEligible {
		t.Errorf("after it: %+v, %v", node, err)
	}
	// An operator's own drain is not the leaver's to end.
	if _, err := server.API().Nodes().UpdateDrainOpts(node.ID, &api.DrainOptions{DrainSpec: &api.DrainSpec{}, Meta: map[string]string{"message": "new disks"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := process().step(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if node, err = host.Node(); err != nil || node.SchedulingEligibility != api.NodeSchedulingIneligible {
		t.Errorf("an operator's drain was ended: %+v, %v", node, err)
	}
}
