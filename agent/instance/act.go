package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
)

// byOperator begins the reason of an operator's drain.
const byOperator = "drained by an operator: "

// Errors of what operators ask for.
var (
	ErrUnknown  = errors.New("no such instance on this host")
	ErrNotReady = errors.New("the instance is not in a state for that")
)

// Hold keeps all instances of this host out of Consul's answers, as before a
// host goes down; an empty reason ends it.
func (w *Watcher) Hold(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = clean(reason)
	for _, i := range w.found {
		w.step(i, nil, nil, time.Now())
	}
}

// Drain takes an instance out until Undrain. It outlives the agent.
func (w *Watcher) Drain(id, reason string) error { return w.setHold(id, byOperator+clean(reason)) }

// Undrain ends what Drain began.
func (w *Watcher) Undrain(id string) error { return w.setHold(id, "") }

func (w *Watcher) setHold(id, reason string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.found[id]
	if i == nil {
		return fmt.Errorf("instance %.128q: %w", id, ErrUnknown)
	}
	i.hold = reason
	w.step(i, nil, nil, time.Now())
	return nil
}

// begin finds an instance to put to sleep or to wake, and waits for its turn:
// unlock its acting when that is done.
func (w *Watcher) begin(id string) (*watched, error) {
	w.mu.Lock()
	i := w.found[id]
	w.mu.Unlock()
	if i == nil {
		return nil, fmt.Errorf("instance %.128q: %w", id, ErrUnknown)
	}
	i.acting.Lock()
	return i, nil
}

// Sleep takes an instance out, waits until it has nothing to do, and puts its
// server to sleep. If that fails it is given back.
func (w *Watcher) Sleep(ctx context.Context, id string) error {
	i, err := w.begin(id)
	if err != nil {
		return err
	}
	defer i.acting.Unlock()
	w.mu.Lock()
	state, held, target := i.machine.State, i.hold != "", engine.Target{Profile: i.profile, Address: i.address}
	w.mu.Unlock()
	switch {
	case target.Profile.Sleep == nil:
		return fmt.Errorf("instance %s: %s: %w", id, target.Profile.Title, engine.ErrCannotSleep)
	case !state.Ready() || held:
		return fmt.Errorf("instance %s is %s: %w", id, state, ErrNotReady)
	}
	if err := w.setHold(id, "is put to sleep"); err != nil {
		return err
	}
	defer w.setHold(id, "") //nolint:errcheck // it went away meanwhile
	if err := w.idle(ctx, i); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	if err := w.cfg.Servers.Sleep(ctx, target); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	w.mu.Lock()
	i.asleep = true
	w.mu.Unlock()
	w.turn(ctx, i) // sees it asleep before the hold ends
	return nil
}

// idle waits until an instance that gets no new requests has none left.
func (w *Watcher) idle(ctx context.Context, i *watched) error {
	// Whoever asked Consul a moment ago may still send a request.
	sleep(ctx, 2*time.Second)
	for {
		w.mu.Lock()
		running, known := i.values[fleet.Running]
		waiting := i.values[fleet.Waiting]
		fresh := known && time.Since(running.at) < staleAfter*w.cfg.Period
		w.mu.Unlock()
		if fresh && running.v == 0 && waiting.v == 0 {
			return nil
		}
		sleep(ctx, w.cfg.Period)
		if ctx.Err() != nil {
			return fmt.Errorf("it still works on requests, or does not say: %w", ctx.Err())
		}
	}
}

// Wake wakes an instance that sleeps. It is ready when it was seen to be.
func (w *Watcher) Wake(ctx context.Context, id string) error {
	i, err := w.begin(id)
	if err != nil {
		return err
	}
	defer i.acting.Unlock()
	w.mu.Lock()
	state, target := i.machine.State, engine.Target{Profile: i.profile, Address: i.address}
	i.woken = time.Now()
	w.mu.Unlock()
	if state != fleet.Asleep {
		return fmt.Errorf("instance %s is %s: %w", id, state, ErrNotReady)
	}
	if err := w.cfg.Servers.Wake(ctx, target); err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	w.mu.Lock()
	i.asleep = false
	w.mu.Unlock()
	return nil
}
