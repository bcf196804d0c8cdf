// Package cloud is what the drivers of clouds have in common. A driver of a
// cloud is an [API], which speaks that cloud's language, and a config; what is
// read, what is sent and when, is decided here, the same for all of them.
//
// # What is sent, and how often
//
// Hosts of one account and region share its API. Reads that come together are
// one request for all of their instances: a request begins after each read that
// it answers, so that no answer is older than its question. Before a change the
// instance is read in the same call, and a change is sent once: one that was
// not answered may still happen. What the cloud put off because it was asked too
// often was not done, and is asked again, later and later, within the deadline
// of the call.
//
// # Soft and hard
//
// A cloud's stop asks the operating system first and cuts the power itself when
// that takes too long. That is soft-off; hard-off is whatever the cloud has that
// does not wait.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

// API is one account in one region of a cloud, for all hosts that are there. It
// is safe for concurrent use. Its methods send each request once and return
// errors of the classes of package power, made by [Rules]; those that asked too
// often are [Throttled].
type API interface {
	// Read reads instances by their IDs. Those that are not there are left out
	// of the result.
	Read(ctx context.Context, ids []string) (map[string]Instance, error)
	// Start turns an instance on that was so when it was read just now.
	Start(ctx context.Context, id string, was Instance) error
	// Stop turns it off.
	Stop(ctx context.Context, id string, was Instance, how power.Off) error
	// Rights says which of the rights that Start and Stop want the credential
	// lacks, in the cloud's own words, and changes nothing. It is
	// [power.ErrUnsupported] where the cloud does not tell without doing it.
	Rights(ctx context.Context, id string) (lacks []string, err error)
	// Close closes connections.
	Close()
}

// Phase is where an instance is in its life. No two clouds call it the same.
type Phase int

// The phases.
const (
	Unknown  Phase = iota // not one that the driver knows; nothing is done to it
	Off                   // stopped; it keeps its disk and costs no machine
	Starting              // on its way to On; counts as on
	On                    // running, whatever its operating system does
	Stopping              // on its way to Off; counts as on, and cannot be started before it is off
	Busy                  // on its way elsewhere, such as to another machine; counts as on, and comes back by itself
	Leaving               // being deleted; counts as on, and never comes back
	Gone                  // deleted; it never comes back
	Fault                 // the cloud says that it is broken and wants its operator
)

// Instance is one machine as its cloud tells of it.
type Instance struct {
	Phase Phase
	State string // what the cloud calls it, such as "shutting-down"
	Why   string // how it came to that, in the cloud's words; empty where it does not say
}

// power is the chassis power. Only Off is off: what is on its way costs money,
// and a command that turned it on was not lost.
func (i Instance) power() (pool.Power, error) {
	switch i.Phase {
	case Off:
		return pool.PowerOff, nil
	case Starting, On, Stopping, Busy, Leaving:
		return pool.PowerOn, nil
	case Gone:
		return pool.PowerUnknown, fmt.Errorf("%w: it is %s and does not come back; make another instance and correct the inventory", power.ErrRefused, i)
	case Fault:
		return pool.PowerUnknown, fmt.Errorf("%w: it is %s; its cloud wants its operator", power.ErrRefused, i)
	}
	return pool.PowerUnknown, fmt.Errorf("%w: it is %s, which this driver does not know", power.ErrUnreachable, i)
}

// String is the state, with the reason if there is one.
func (i Instance) String() string {
	if i.Why == "" {
		return fmt.Sprintf("%.60q", i.State)
	}
	return fmt.Sprintf("%.60q (%s)", i.State, https.Brief(i.Why))
}

// change is a thing to do to the power.
type change int

const (
	turnOn change = iota
	softOff
	hardOff
)

func (c change) String() string { return [...]string{"power on", "soft off", "hard off"}[c] }

// needed says whether a change is left to be made to an instance.
func (c change) needed(i Instance) (bool, error) {
	if _, err := i.power(); err != nil {
		return false, err
	}
	switch {
	case c == turnOn && i.Phase == Stopping:
		return false, fmt.Errorf("%w: it is %s; it can be powered on when that is over", power.ErrRefused, i)
	case c == turnOn && i.Phase == Leaving:
		return false, fmt.Errorf("%w: it is %s and does not come back", power.ErrRefused, i)
	case i.Phase == Busy && c != hardOff:
		return false, fmt.Errorf("%w: it is %s; try again when that is over", power.ErrRefused, i)
	case c == turnOn:
		return i.Phase == Off, nil
	case c == softOff:
		return i.Phase == On || i.Phase == Starting, nil
	}
	return i.Phase != Off && i.Phase != Leaving, nil // a stop that hangs is what hard-off is for
}

// Config is one instance.
type Config struct {
	Driver   string // its name, such as "ec2"
	ID       string // of the instance, as the API takes it
	Where    string // it is, for errors: such as "i-0abc in eu-central-1"
	Identity string // of the controller: see package drivers
	// Account is a comparable value that is the same for all instances that
	// may share an API, and Open opens that. It sends nothing.
	Account any
	Open    func() (API, error)
	// Trust is whose certificate is good, of the endpoint.
	Trust https.Trust
	// Most is how many instances one Read may be for.
	Most int
	// Limits are those of each instance; AuthBackoff is for the account.
	Limits power.Limits
}

// Driver is one instance of a cloud. Calls may come from several goroutines.
type Driver struct {
	config    Config
	account   *account
	turnstile *power.Turnstile
	close     func()
}

// New returns the driver of one instance. It sends nothing.
func New(c Config) (*Driver, error) {
	a, err := join(c)
	if err != nil {
		return nil, err
	}
	c.Limits.Lock = a.lock
	d := &Driver{config: c, account: a, turnstile: power.NewTurnstile(c.Limits)}
	d.close = sync.OnceFunc(func() {
		d.turnstile.Close()
		a.leave()
	})
	return d, nil
}

// Identity names the instance, so that two hosts with one can be told.
func (d *Driver) Identity() string { return d.config.Identity }

// String is the identity, so that printing a driver prints no credential.
func (d *Driver) String() string { return d.config.Identity }

// GoString is the identity too.
func (d *Driver) GoString() string { return d.config.Identity }

// State reads the instance.
func (d *Driver) State(ctx context.Context) (pool.Power, error) {
	found := pool.PowerUnknown
	err := d.call(ctx, "read power", func(_ context.Context, i Instance) (err error) {
		found, err = i.power()
		return err
	})
	return found, err
}

// On starts the instance.
func (d *Driver) On(ctx context.Context) error {
	return d.change(ctx, turnOn, func(ctx context.Context, i Instance) error {
		return d.account.api.Start(ctx, d.config.ID, i)
	})
}

// Off stops the instance.
func (d *Driver) Off(ctx context.Context, how power.Off) error {
	what := softOff
	if how == power.Hard {
		what = hardOff
	}
	return d.change(ctx, what, func(ctx context.Context, i Instance) error {
		return d.account.api.Stop(ctx, d.config.ID, i, how)
	})
}

// Close ends the call that is under way, if any, and refuses later ones.
func (d *Driver) Close() error {
	d.close()
	return nil
}

// change makes a change if it is needed, and once unless it was put off.
func (d *Driver) change(ctx context.Context, what change, act func(context.Context, Instance) error) error {
	return d.call(ctx, what.String(), func(ctx context.Context, i Instance) error {
		needed, err := what.needed(i)
		if err != nil || !needed {
			return err
		}
		err = insist(ctx, func() error { return act(ctx, i) })
		if err != nil && i.Why != "" {
			return fmt.Errorf("%w (before, it was %s)", err, i)
		}
		return err
	})
}

// call reads the instance and runs act on it.
func (d *Driver) call(ctx context.Context, what string, act func(context.Context, Instance) error) error {
	err := d.turnstile.Pass(ctx, func(ctx context.Context) error {
		i, err := d.account.sights.get(ctx, d.config.ID)
		switch {
		case errors.Is(err, errAbsent):
			return fmt.Errorf("%w: there is none in this account; correct the inventory, or the rights of the credential", power.ErrRefused)
		case err != nil:
			return err
		}
		return act(ctx, i)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %s: %w", d.config.Driver, d.config.Where, what, err)
	}
	return nil
}

// account is an API and what its hosts share with it.
type account struct {
	key    any
	api    API
	sights *sights
	lock   *power.AuthLock
	users  int // for the holder of accounts.mu
}

// accounts are those that drivers are open on. Drivers are made one by one,
// from the settings of one host each, so that this is where they meet.
var accounts = struct {
	mu   sync.Mutex
	open map[any]*account
}{open: make(map[any]*account)}

// join opens the account of a config, or the one that is open.
func join(c Config) (*account, error) {
	accounts.mu.Lock()
	defer accounts.mu.Unlock()
	a, ok := accounts.open[c.Account]
	if !ok {
		api, err := c.Open()
		if err != nil {
			return nil, err
		}
		a = &account{key: c.Account, api: api, sights: newSights(api.Read, c.Most), lock: power.NewAuthLock(c.Limits.AuthBackoff)}
		accounts.open[c.Account] = a
	}
	a.users++
	return a, nil
}

// leave closes the account if nobody else uses it.
func (a *account) leave() {
	accounts.mu.Lock()
	defer accounts.mu.Unlock()
	if a.users--; a.users > 0 {
		return
	}
	delete(accounts.open, a.key)
	a.sights.close()
	a.api.Close()
}

var _ power.Driver = (*Driver)(nil)
