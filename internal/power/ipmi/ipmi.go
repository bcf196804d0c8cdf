// Package ipmi powers hosts through their BMCs, over IPMI 2.0 (RMCP+).
//
// # One session per call
//
// Every call logs in, reads the chassis power, sends what is to be changed and
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
// Requests are repeated once within a session, but for changes; logins and reads
// that got no answer all the same, or found all sessions of the BMC in use, are
// tried again from the start until the deadline. A login that was refused is not
// tried again at all: see [Config.AuthBackoff].
//
// A change without an answer may have happened, and may still happen, even
// seconds later: go-ipmi's own retries were seen to make a slow BMC carry out
// one command four times. So the power is read again first, which tells a lost
// answer from a lost command. Only a power-on is then sent again, twice at most:
// carried out late or once more, it changes nothing on a host that is on. An
// off is sent once. Late, it would hit a host that has work again.
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
const firstWait = 400 * time.Millisecond

// answerWait is how long the first change of a call waits for its answer before
// the power is read again; a later one waits half as long again.
const answerWait = 500 * time.Millisecond

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
	err := d.pass(ctx, "read power", func(ctx context.Context) error {
		s, p, err := d.open(ctx)
		if err != nil {
			return err
		}
		s.close(ctx)
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
	most := 1
	if command == chassis.ChassisControlPowerUp {
		most = 3
	}
	return d.pass(ctx, what, func(ctx context.Context) error {
		var unanswered error
		wait := answerWait
		for sent := 0; ; sent++ {
			s, found, err := d.open(ctx)
			switch {
			case err != nil && unanswered != nil:
				return unanswered // which says more than that it cannot be read
			case err != nil:
				return err
			case found == want, sent == most:
				s.close(ctx)
				if found == want {
					return nil
				}
				return unanswered
			}
			err = s.control(ctx, command, wait)
			s.close(ctx)
			if !errors.Is(err, power.ErrAmbiguous) {
				return err
			}
			unanswered = err
			wait += wait / 2
		}
	})
}

// pass runs one call when it is its turn, and says of its error what it was.
func (d *Driver) pass(ctx context.Context, what string, call func(context.Context) error) error {
	if err := d.turnstile.Pass(ctx, call); err != nil {
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
		case errors.Is(err, errBusy) && rest(ctx, wait):
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

// rest waits, unless the context ends before that.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
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
