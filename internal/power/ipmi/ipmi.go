// Package ipmi powers hosts through their BMCs, over IPMI 2.0 (RMCP+).
//
// # One session per call
//
// Every call logs in, reads the chassis power or sends what is to be changed, and
// logs out, for which its caller does not wait. Keeping the session would save
// six of seven round trips per read, and is not done: BMCs have as few as four
// sessions for all tools together and hold a lost one for a minute, so a poller
// that keeps one per BMC, or is killed with one open, starves the operators; a
// kept session has gone stale exactly when a change is sent on it; and the login
// just before a change is the proof that this BMC answers now, which keeps the
// answer "not known" for the one datagram that deserves it.
//
// # What is sent, and how often
//
// A request without an answer is repeated, some four times, after as long as this
// BMC has been seen to take; only an off is not. What got no answer all the
// same is tried again from the login, until the deadline. A login that was
// refused is not tried again at all: see [Config.AuthBackoff].
//
// A power-on is sent at once: on a host that is on it changes nothing, late and
// repeated too, and that is how ipmitool and ipmipower power on. A BMC that
// refuses it is asked whether the host is on already.
//
// An off is sent once, to a host that was just read as on. Without an answer it
// may have happened, and may still happen, even seconds later: go-ipmi's own
// retries were seen to make a slow BMC carry out one command four times. It is
// not sent again, for late it would hit a host that has work again. The power is
// read again, which tells a lost answer from a lost command; so it is of a
// power-on that was not answered, before it is sent again.
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

// How long a change waits for its answer at least: BMCs take longer for it than
// for anything else.
const (
	onWait  = firstWait
	offWait = 500 * time.Millisecond
)

// How often a power-on is sent: in how many sessions, and in each.
const (
	onRounds = 2
	onTimes  = 4
)

// Driver is one BMC. Calls may come from several goroutines; the BMC sees one
// at a time.
type Driver struct {
	config    settings
	identity  string
	turnstile *power.Turnstile
	pace      pace
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
	err := d.pass(ctx, "read power", func(ctx context.Context) (s *session, err error) {
		s, found, err = d.open(ctx, true)
		return s, err
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

// Close ends the call that is under way, if any, and refuses later ones. It waits
// for the end of the last session, half a second at most.
func (d *Driver) Close() error {
	d.turnstile.Close()
	return nil
}

// change sends a command unless the chassis is seen to be as wanted.
func (d *Driver) change(ctx context.Context, what string, want pool.Power, command chassis.ChassisControl) error {
	harmless := command == chassis.ChassisControlPowerUp // however often, and whenever
	rounds, times, wait := 1, 1, offWait
	if harmless {
		rounds, times, wait = onRounds, onTimes, onWait
	}
	return d.pass(ctx, what, func(ctx context.Context) (*session, error) {
		var unanswered error
		for round := 0; ; round++ {
			s, found, err := d.open(ctx, round > 0 || !harmless)
			switch {
			case err != nil && unanswered != nil:
				return nil, unanswered // which says more than that it cannot be read
			case err != nil:
				return nil, err
			case found == want:
				return s, nil
			case round == rounds:
				return s, unanswered
			}
			err = s.control(ctx, command, times, wait)
			if harmless && errors.Is(err, power.ErrRefused) {
				if found, failed := s.state(ctx); failed == nil && found == want {
					return s, nil
				}
			}
			if !errors.Is(err, power.ErrAmbiguous) {
				return s, err
			}
			s.close(ctx)
			unanswered = err
		}
	})
}

// pass runs one call when it is its turn, and says of its error what it was. The
// session that the call returns, if any, is closed after it, in the same turn.
func (d *Driver) pass(ctx context.Context, what string, call func(context.Context) (*session, error)) error {
	err := d.turnstile.PassAndTidy(ctx, func(ctx context.Context) (tidy func(), err error) {
		s, err := call(ctx)
		if s == nil {
			return nil, err
		}
		return s.leave(ctx), err
	})
	if err != nil {
		return fmt.Errorf("ipmi %s: %s: %w", d.config.address, what, err)
	}
	return nil
}

// open returns a session, and the chassis power if it is to look.
func (d *Driver) open(ctx context.Context, look bool) (*session, pool.Power, error) {
	var before error // of the try before the one that the deadline cut short
	for tries := 1; ; tries++ {
		s, found, err := d.try(ctx, look, tries-1)
		switch {
		case err == nil:
			return s, found, nil
		case (errors.Is(err, errBusy) || errors.Is(err, errForgot)) && rest(ctx, firstWait*time.Duration(tries)):
		case !errors.Is(err, errNoAnswer):
			return nil, pool.PowerUnknown, err
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
			if before != nil {
				err = before
			}
			return nil, pool.PowerUnknown, fmt.Errorf("%w (logins tried: %d): %w", err, tries, cause(ctx))
		}
		before = err
	}
}

// rest waits, unless the context ends before that.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// try logs in, and reads the power if it is to look, once.
func (d *Driver) try(ctx context.Context, look bool, patience int) (*session, pool.Power, error) {
	s, err := login(ctx, d.config, &d.pace, patience)
	if err != nil || !look {
		return s, pool.PowerUnknown, err
	}
	found, err := s.state(ctx)
	if err != nil {
		s.close(ctx)
		return nil, pool.PowerUnknown, err
	}
	return s, found, nil
}

var _ power.Driver = (*Driver)(nil)
