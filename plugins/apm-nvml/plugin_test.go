package main

import (
	"context"
	"errors"
	"flag"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad-autoscaler/sdk"

	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pluginconfig"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "rewrite the generated part of the reference pages")

// source answers what a test says.
type source struct {
	mu    sync.Mutex
	d     nomad.Demand
	err   error
	panic bool
}

func (s *source) set(allocated, queued int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.d, s.err = nomad.Demand{Allocated: allocated, Queued: queued}, err
}

func (s *source) Demand(context.Context, nomad.PoolSpec) (nomad.Demand, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panic {
		panic("a bug")
	}
	return s.d, s.err
}

// watching is a plugin that watches one pool through src, in a bubble.
func watching(t *testing.T, src *source) *plugin {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); synctest.Wait() })
	w := &watch{
		spec: nomad.PoolSpec{Name: "h100"}, from: src, log: hclog.NewNullLogger(),
		every: 5 * time.Second, keep: time.Hour, hold: 2 * time.Minute, timeout: time.Second,
	}
	p := newPlugin(hclog.NewNullLogger())
	p.watches = map[string]*watch{"h100": w}
	go w.run(ctx)
	return p
}

const demandQuery = `demand_gpus{pool="h100"}`

func window(d time.Duration) sdk.TimeRange {
	now := time.Now()
	return sdk.TimeRange{From: now.Add(-d), To: now}
}

func TestQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{}
		src.set(2, 1, nil)
		p := watching(t, src)
		time.Sleep(12 * time.Second) // samples at 0, 5 and 10 s
		src.set(4, 0, nil)
		time.Sleep(4 * time.Second) // and at 15 s

		got, err := p.Query(demandQuery, window(time.Minute))
		if err != nil || len(got) != 4 || got[0].Value != 3 || got[3].Value != 4 {
			t.Errorf("a window: %v, %v", got, err)
		}
		got, err = p.Query(demandQuery, window(7*time.Second))
		if err != nil || len(got) != 2 {
			t.Errorf("a short window: %v, %v", got, err)
		}
		// An instant is exactly one point, at the time that it was true.
		got, err = p.Query(demandQuery, window(0))
		if err != nil || len(got) != 1 || got[0].Value != 4 || time.Since(got[0].Timestamp) != time.Second {
			t.Errorf("an instant: %v, %v", got, err)
		}
		got, err = p.Query(`queued_gpus{pool="h100"}`, window(0))
		if err != nil || len(got) != 1 || got[0].Value != 0 {
			t.Errorf("another signal: %v, %v", got, err)
		}
	})
}

func TestHoldThenError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{}
		p := watching(t, src)
		src.set(5, 0, nil)
		time.Sleep(6 * time.Second)
		src.set(0, 0, errors.New("nomad is away"))

		// Held, at the time that it was true: never a zero, never empty.
		time.Sleep(90 * time.Second)
		got, err := p.Query(demandQuery, window(10*time.Second))
		if err != nil || len(got) != 1 || got[0].Value != 5 {
			t.Errorf("held: %v, %v", got, err)
		}
		time.Sleep(time.Minute)
		if got, err := p.Query(demandQuery, window(10*time.Second)); err == nil || !strings.Contains(err.Error(), "nomad is away") {
			t.Errorf("too old: %v, %v", got, err)
		}
		src.set(1, 0, nil)
		time.Sleep(6 * time.Second)
		if got, err := p.Query(demandQuery, window(0)); err != nil || got[0].Value != 1 {
			t.Errorf("back: %v, %v", got, err)
		}
	})
}

func TestNothingReadYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{}
		src.set(0, 0, errors.New("nomad is away"))
		p := watching(t, src)
		time.Sleep(time.Second)
		if got, err := p.Query(demandQuery, window(time.Minute)); err == nil || !strings.Contains(err.Error(), "nomad is away") {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestABugIsAFailedReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{panic: true}
		p := watching(t, src)
		time.Sleep(time.Second)
		if _, err := p.Query(demandQuery, window(0)); err == nil || !strings.Contains(err.Error(), "panic") {
			t.Errorf("got %v", err)
		}
	})
}

func TestHistoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{}
		p := watching(t, src)
		time.Sleep(3 * time.Hour)
		got, err := p.Query(demandQuery, window(24*time.Hour))
		if err != nil || len(got) > 722 || len(got) < 719 {
			t.Errorf("%d samples in memory, an hour's are 720: %v", len(got), err)
		}
	})
}

func TestReferencePages(t *testing.T) {
	r := pluginconfig.Read(pluginName, nil)
	declare(r)
	if err := setting.CheckPage("../../docs/reference/apm-nvml.md", signalsPage()+"\n## Settings\n\n"+r.Doc(), *update); err != nil {
		t.Error(err)
	}
}
