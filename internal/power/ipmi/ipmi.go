// Package ipmi powers hosts through their BMCs, over IPMI 2.0 (RMCP+).
//
// # One session per call
//
// Every call logs in, reads the chassis power, sends at most one change and
// logs out. Keeping the session would save six of seven round trips per read,
// and is not done: BMCs have as few as four sessions for all tools together
// and hold a lost one for a minute, so a poller that keeps one per BMC, or is
// killed with one open, starves the operators; a kept session has gone stale
// exactly when a change is sent on it; and the read just before a change is
// the proof that this BMC answers now, which keeps the answer "not known" for
// the one datagram that deserves it.
//
// # What is sent, and how often
//
// Changes are sent once. A timed-out change may still happen, even seconds
// later, and go-ipmi's own retries were seen to make a slow BMC carry out one
// command four times. Logins and reads that got no answer are tried again from
// the start, with a new session, until the deadline; before that, requests that
// do no harm are repeated once. A login that was refused is
// not tried again at all: see [Config.AuthBackoff].
//
// Chassis Control knows power cycle and reset as well; they are never sent.
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bougou/go-ipmi/pkg/command/chassis"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// firstWait is how long each exchange of the first try waits for its reply.
// Later tries wait a quarter longer each, for BMCs that are slow rather than
// packets that were lost.
const firstWait = 500 * time.Millisecond

// Driver is one BMC. Calls may come from several goroutines; the BMC sees one
// at a time.
type Driver struct {
	config    settings
	identity  string
	turnstile *power.Turnstile
}

// New returns the driver of one BMC. It sends nothing.
func New(c Config) (*Driver, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	return &Driver{config: s, identity: c.Identity(), turnstile: power.NewTurnstile(s.limits)}, nil
}

// Identity names the BMC: see [Config.Identity].
func (d *Driver) Identity() string { return d.identity }

// String is the identity, so that printing a driver prints no credential.
func (d *Driver) String() string { return d.identity }

// GoString is the identity too.
func (d *Driver) GoString() string { return d.identity }

// State reads the chassis power (Get Chassis Status, IPMI 2.0 section 28.2).
func (d *Driver) State(ctx context.Context) (pool.Power, error) {
	var found pool.Power
	err := d.call(ctx, "read power", func(_ context.Context, _ *session, p pool.Power) error {
		found = p
		return nil
	})
	return found, err
}

// On powers the chassis up (Chassis Control 01h, IPMI 2.0 section 28.3).
func (d *Driver) On(ctx context.Context) error {
	return d.change(ctx, "power on", pool.PowerOn, chassis.ChassisControlPowerUp)
}

// Off asks the operating system to shut down (Chassis Control 05h), or cuts
// the power (00h).
func (d *Driver) Off(ctx context.Context, how power.Off) error {
	if how == power.Hard {
		return d.change(ctx, "hard off", pool.PowerOff, chassis.ChassisControlPowerDown)
	}
	return d.change(ctx, "soft off", pool.PowerOff, chassis.ChassisControlSoftShutdown)
}

// Close ends the call that is under way, if any, and refuses later ones. There
// is no session to release between calls.
func (d *Driver) Close() error {
	d.turnstile.Close()
	return nil
}

// change sends a command unless the chassis is already as wanted.
func (d *Driver) change(ctx context.Context, what string, want pool.Power, command chassis.ChassisControl) error {
	return d.call(ctx, what, func(ctx context.Context, s *session, found pool.Power) error {
		if found == want {
			return nil
		}
		return s.control(ctx, command)
	})
}

// call logs in, reads the power, and runs act in that session.
func (d *Driver) call(ctx context.Context, what string, act func(context.Context, *session, pool.Power) error) error {
	err := d.turnstile.Pass(ctx, func(ctx context.Context) error {
		s, found, err := d.open(ctx)
		if err != nil {
			return err
		}
		defer s.close(ctx)
		return act(ctx, s, found)
	})
	if err != nil {
		return fmt.Errorf("ipmi %s: %s: %w", d.config.address, what, err)
	}
	return nil
}

// open returns a session that has just read the chassis power.
func (d *Driver) open(ctx context.Context) (*session, pool.Power, error) {
	tries := 0
	var before error // of the try before the one that the deadline cut short
	for wait := firstWait; ; wait += wait / 4 {
		tries++
		s, found, err := d.try(ctx, wait)
		switch {
		case err == nil:
			return s, found, nil
		case !errors.Is(err, errNoAnswer):
			return nil, pool.PowerUnknown, err
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
			if before != nil {
				err = before
			}
			return nil, pool.PowerUnknown, fmt.Errorf("%w (tries: %d): %w", err, tries, cause(ctx))
		}
		before = err
	}
}

// try logs in and reads the power, once.
func (d *Driver) try(ctx context.Context, wait time.Duration) (*session, pool.Power, error) {
	s, err := login(ctx, d.config, wait)
	if err != nil {
		return nil, pool.PowerUnknown, err
	}
	found, err := s.state(ctx)
	if err != nil {
		s.close(ctx)
		return nil, pool.PowerUnknown, err
	}
	return s, found, nil
}

var _ power.Driver = (*Driver)(nil)
