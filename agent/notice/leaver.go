package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gpupool/gpupool/internal/nomad"
)

// Mark is what drains of a [Leaver] are marked with, where a pool's have its
// name. To a pool they are somebody else's: the host is held, counts as no
// capacity, and another one is powered on for it.
const Mark = "host-notice"

// margin is what a drain leaves of the time that there is, for Nomad's own
// steps and for the machine to go down in order.
const margin = 5 * time.Second

// Nomad is what a [Leaver] asks of it; [nomad.Client] does.
type Nomad interface {
	NodeID(ctx context.Context, name string) (string, error)
	Drain(ctx context.Context, nodeID string, spec nomad.DrainSpec) error
	GiveBack(ctx context.Context, nodeID, mark string) (bool, error)
}

// LeaverConfig is what a [Leaver] needs.
type LeaverConfig struct {
	Watch *Watch
	// Hold is told why no model server of this host is to get requests; empty
	// when they may. It must not block. May be nil.
	Hold func(why string)
	// Nomad may be nil, where the agent must not drain its node.
	Nomad Nomad
	Node  string // name of the host's Nomad node
	Log   *slog.Logger
}

// Leaver empties a host that will be taken away, with the time that is left:
// its model servers leave Consul's answers at once, and its node is drained. A
// host that is back, without a notice, is given back if the drain was its own.
type Leaver struct {
	cfg  LeaverConfig
	done string // what was last carried out
}

// NewLeaver makes a leaver, which does nothing until Run.
func NewLeaver(cfg LeaverConfig) *Leaver { return &Leaver{cfg: cfg} }

// retry is the time between attempts at what Nomad did not do.
const retry = 2 * time.Second

// Run acts until ctx ends. Each thing is tried until it is done, or until it is
// not wanted any more.
func (l *Leaver) Run(ctx context.Context) {
	again := time.NewTicker(retry)
	defer again.Stop()
	said := ""
	for {
		if err := l.step(ctx, time.Now()); err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			l.cfg.Log.Warn("cannot tell Nomad that the host will be taken away, will try again", "error", err)
		} else if err == nil {
			said = ""
		}
		select {
		case <-ctx.Done():
			return
		case <-l.cfg.Watch.Changed():
		case <-again.C:
		}
	}
}

// first is the notice to act upon: the earliest that is certain.
func first(all []Notice) (Notice, bool) {
	for _, n := range all {
		if !n.Likely {
			return n, true
		}
	}
	return Notice{}, false
}

// step does what the notices of now ask for and was not done yet.
func (l *Leaver) step(ctx context.Context, now time.Time) error {
	n, leaving := first(l.cfg.Watch.Now())
	if l.cfg.Hold != nil {
		l.cfg.Hold(n.What) // empty where there is none
	}
	want := "stay"
	if leaving {
		want = fmt.Sprintf("leave by %d: %s", n.By.Unix(), n.ID)
	}
	if l.cfg.Nomad == nil || want == l.done || !leaving && !l.cfg.Watch.settled() {
		return nil
	}
	id, err := l.cfg.Nomad.NodeID(ctx, l.cfg.Node)
	if err != nil {
		return err
	}
	if leaving {
		err = l.leave(ctx, now, id, n)
	} else {
		err = l.stay(ctx, id)
	}
	if err == nil {
		l.done = want
	}
	return err
}

// leave drains the node. Work that cannot move in time is stopped in order,
// which is better than being cut off.
func (l *Leaver) leave(ctx context.Context, now time.Time, id string, n Notice) error {
	spec := nomad.DrainSpec{Pool: Mark, Why: n.What}
	if !n.By.IsZero() {
		spec.Deadline = max(n.By.Sub(now)-margin, time.Second)
	}
	err := l.cfg.Nomad.Drain(ctx, id, spec)
	if errors.Is(err, nomad.ErrForeign) {
		l.cfg.Log.Info("the host is drained by somebody else already")
		return nil
	}
	if err == nil {
		l.cfg.Log.Warn("drains the host's node", "why", n.What, "by", by(n))
	}
	return err
}

func (l *Leaver) stay(ctx context.Context, id string) error {
	back, err := l.cfg.Nomad.GiveBack(ctx, id, Mark)
	if back && err == nil {
		l.cfg.Log.Info("the host stays: its node was given back")
	}
	return err
}
