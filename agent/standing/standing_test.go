package standing

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/nomad/nomadtest"
)

func host(all ...fleet.Health) fleet.Snapshot {
	s := fleet.Snapshot{Driver: fleet.Driver{State: fleet.DriverOK}}
	for _, h := range all {
		s.GPUs = append(s.GPUs, fleet.GPU{Health: h})
	}
	return s
}

var (
	fine  = fleet.Health{Verdict: fleet.HealthOK}
	worn  = fleet.Health{Verdict: fleet.HealthDegraded, Action: fleet.ActionReset}
	gone  = fleet.Health{Verdict: fleet.HealthFailed, Action: fleet.ActionCycle}
	blank = fleet.Health{Verdict: fleet.HealthUnknown}
)

func TestOf(t *testing.T) {
	for _, c := range []struct {
		name string
		s    fleet.Snapshot
		want map[string]string
	}{
		{"all is well", host(fine, fine), map[string]string{KeyHealth: "ok", KeyFit: "2"}},
		{"one is worn", host(fine, worn), map[string]string{KeyHealth: "degraded", KeyFit: "2", KeyAdvice: "reset"}},
		{"one is gone: the worst verdict, the strongest advice", host(gone, worn, fine), map[string]string{KeyHealth: "failed", KeyFit: "2", KeyAdvice: "cycle"}},
		{"no GPU at all", host(), map[string]string{KeyHealth: "failed", KeyFit: "0"}},
		{"not judged yet", host(fine, blank), nil},
		{"an agent without verdicts", host(fleet.Health{}), nil},
		{"the driver starts", fleet.Snapshot{Driver: fleet.Driver{State: fleet.DriverStarting}}, nil},
	} {
		if got := Of(c.s); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// listener hears what is told.
type listener struct {
	mu   sync.Mutex
	now  fleet.Snapshot
	err  error
	told []map[string]*string
}

func (l *listener) snapshot() fleet.Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *listener) tell(_ context.Context, meta map[string]*string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.told = append(l.told, meta)
	}
	return l.err
}

func (l *listener) set(s fleet.Snapshot, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now, l.err = s, err
}

func (l *listener) heard() []map[string]*string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

// Only what lasts is told, once, and told again when it changes.
func TestOnlyWhatLastsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer func() { cancel(); synctest.Wait() }()
		l := new(listener)
		l.set(host(fine), nil)
		go New(Config{Snapshot: l.snapshot, Tell: l.tell, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
		time.Sleep(10 * time.Minute)
		if got := l.heard(); len(got) != 1 || *got[0][KeyHealth] != "ok" || got[0][KeyAdvice] != nil {
			t.Fatalf("a host that is well: %d words", len(got))
		}
		for range 10 { // a GPU that comes and goes
			l.set(host(gone), nil)
			time.Sleep(10 * time.Second)
			l.set(host(fine), nil)
			time.Sleep(10 * time.Second)
		}
		if got := l.heard(); len(got) != 1 {
			t.Errorf("flapping was told: %d words", len(got))
		}
		l.set(host(gone), errors.New("no leader"))
		time.Sleep(time.Minute)
		l.set(host(gone), nil)
		time.Sleep(12 * time.Second)
		if got := l.heard(); len(got) != 2 || *got[1][KeyHealth] != "failed" || *got[1][KeyAdvice] != "cycle" {
			t.Errorf("a GPU is gone: %d words", len(got))
		}
		time.Sleep(time.Hour)
		if got := l.heard(); len(got) < 3 || len(got) > 5 {
			t.Errorf("in an hour it was told %d times more", len(got)-2)
		}
	})
}

// With a real Nomad, through the client on the host itself, as agents ask.
func TestNodeOfARealNomad(t *testing.T) {
	server := nomadtest.Start(t, "")
	server.Run()
	client := server.Client("gpu-1", "")
	client.Run()
	c, err := nomad.New(nomad.Config{API: &api.Config{Address: client.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	node, err := client.Node()
	if err != nil {
		t.Fatal(err)
	}
	tell := New(Config{Tell: func(ctx context.Context, meta map[string]*string) error { return c.SetNodeMeta(ctx, node.ID, meta) }})
	for _, s := range []fleet.Snapshot{host(fine, gone), host(fine, fine)} {
		if err := tell.tell(t.Context(), Of(s)); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(time.Minute)
		for {
			node, err := client.Node()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, k := range keys {
				if v, ok := node.Meta[k]; ok {
					got[k] = v
				}
			}
			if maps.Equal(got, Of(s)) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the node says %v, want %v", got, Of(s))
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}
