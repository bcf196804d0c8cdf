// Package power turns hosts on and off. A [Driver] speaks to one host's power
// controller; each driver has a folder of its own, a line in package drivers,
// and passes the suite in package powertest.
package power

import (
	"context"
	"errors"

	"github.com/gpupool/gpupool/internal/pool"
)

// Driver is the power controller of one host.
//
// Every method is safe to repeat: On on a host that is on, and Off on one that
// is off, succeed and change nothing. No method sends an off twice, because a
// controller can execute a command long after its caller gave up, and the host
// may have work again by then; the next tick of the control loop is the retry.
// An On may be sent again, and to a host that is on. The context always carries
// a deadline, and methods return soon after it. Calls are serialised by the
// driver where its controller wants that. Errors never contain a credential.
type Driver interface {
	// State reads the chassis power. The state is PowerUnknown when err is
	// not nil.
	State(ctx context.Context) (pool.Power, error)
	// On powers the chassis on. It returns when the controller accepted the
	// command, not when the host has booted.
	On(ctx context.Context) error
	// Off powers the chassis off, or asks for it: see [Off]. It returns when
	// the controller accepted the command, not when the chassis is off.
	Off(ctx context.Context, how Off) error
	// Close releases the controller's session. It is safe to call twice.
	Close() error
}

// Off is how to power a host off.
type Off int

// The ways to power a host off.
const (
	Soft Off = iota // ask the operating system to shut down (ACPI, GracefulShutdown)
	Hard            // cut the power, losing whatever runs
)

func (o Off) String() string {
	if o == Hard {
		return "hard"
	}
	return "soft"
}

// The classes of error that callers tell apart with errors.Is. Drivers wrap
// them with the host's address and what the controller said.
var (
	// ErrUnreachable: no answer from the controller, nothing was sent that
	// could have an effect, or the request was refused before it was read.
	ErrUnreachable = errors.New("power controller unreachable")
	// ErrAuth: the controller refused the credential. It must not be tried
	// again before the credential changes: controllers lock out.
	ErrAuth = errors.New("power controller refused the credential")
	// ErrAmbiguous: a change was sent and its outcome is not known. It may
	// have happened, and it may still happen.
	ErrAmbiguous = errors.New("outcome of the power command is not known")
	// ErrRefused: the controller understood the command and said no.
	ErrRefused = errors.New("power controller refused the command")
	// ErrCapacity: the cloud has no such machine to give now, or the account's
	// quota is used up. Nothing was done; it may go well later, or on another
	// host.
	ErrCapacity = errors.New("no capacity")
	// ErrUnsupported: this controller can never do that.
	ErrUnsupported = errors.ErrUnsupported
)
