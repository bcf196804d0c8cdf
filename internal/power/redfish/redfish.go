// Package redfish powers hosts through their BMCs, over DMTF Redfish (DSP0266).
//
// # What is sent, and how often
//
// The service root and the path of the host's system are read once, then every
// read of the power is one GET, over a connection that is kept. Before a change
// the power is read in the same call, and a change is one POST of
// ComputerSystem.Reset that is sent once: a timed-out one may still happen. What
// is accepted as a task (202) is watched for a moment, since some services
// accept first and refuse then.
//
// On is the ResetType On, or ForceOn where there is no On; soft-off is
// GracefulShutdown and hard-off ForceOff, where the system offers them. Restart,
// power cycle and PushPowerButton are never sent.
//
// # How to log in
//
// Basic authentication leaves nothing behind in the BMC and is the default. A
// session is opened and deleted within one call, because BMCs have as few as
// eight for all tools together and keep a lost one for half an hour. The
// credential goes to the configured host alone, over TLS, and only after its
// certificate was verified.
package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stmcginnis/gofish"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// logoutWait is how long the deletion of a session may take.
const logoutWait = 2 * time.Second

// doubtful are the makers, as the service root names them, whose BMCs have been
// seen to refuse good credentials now and then: HPE iLO, NVIDIA GB200 and
// GB300, and AMI MegaRAC (NVIDIA/infra-controller#69, #310 and #5349).
var doubtful = []string{"HP", "HPE", "NVIDIA", "AMI"}

// maxDoubts is how many refusals in a row of a credential that was good before
// are held for such ones. One more is held for true.
const maxDoubts = 4

// Driver is one system behind one Redfish service. Calls may come from several
// goroutines; the service sees one at a time.
type Driver struct {
	config    settings
	identity  string
	turnstile *power.Turnstile
	transport interface{ CloseIdleConnections() }
	http      *http.Client
	guard     *guard
	closed    atomic.Bool

	// The rest is for whoever has the turn.
	root      *gofish.APIClient // nil before the service root was read
	path      string            // of the system, empty before it was found
	restUntil time.Time         // until when the service asked to be left alone
	loggedIn  bool              // the credential was good once
	doubts    int               // refusals since
}

// New returns the driver of one system. It reads the CA file, and sends
// nothing.
func New(c Config) (*Driver, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	transport, err := s.trust.Transport(2) // one, and one to log out on while the first is stuck
	if err != nil {
		return nil, err
	}
	d := newDriver(s, transport)
	d.identity, d.transport = c.Identity(), transport
	return d, nil
}

func newDriver(s settings, base http.RoundTripper) *Driver {
	d := &Driver{config: s, turnstile: power.NewTurnstile(s.limits)}
	d.http, d.guard = newClient(s, base)
	if !s.session {
		d.guard.login = func(req *http.Request) { req.SetBasicAuth(s.username, s.password.Reveal()) }
	}
	return d
}

// Identity names the system: see [Config.Identity].
func (d *Driver) Identity() string { return d.identity }

// String is the identity, so that printing a driver prints no credential.
func (d *Driver) String() string { return d.identity }

// GoString is the identity too.
func (d *Driver) GoString() string { return d.identity }

// State reads the system's PowerState.
func (d *Driver) State(ctx context.Context) (pool.Power, error) {
	found := pool.PowerUnknown
	err := d.call(ctx, "read power", func(_ context.Context, _ *gofish.APIClient, s *system) (err error) {
		found, err = chassisPower(s.PowerState)
		return err
	})
	return found, err
}

// On powers the system on.
func (d *Driver) On(ctx context.Context) error { return d.change(ctx, turnOn) }

// Off asks the operating system to shut down, or cuts the power.
func (d *Driver) Off(ctx context.Context, how power.Off) error {
	if how == power.Hard {
		return d.change(ctx, hardOff)
	}
	return d.change(ctx, softOff)
}

// Close ends the call that is under way, if any, and refuses later ones.
func (d *Driver) Close() error {
	d.closed.Store(true)
	d.turnstile.Close()
	d.transport.CloseIdleConnections()
	return nil
}

func (d *Driver) change(ctx context.Context, what change) error {
	return d.call(ctx, what.String(), func(ctx context.Context, c *gofish.APIClient, s *system) error {
		return d.reset(ctx, c, s, what)
	})
}

// call logs in, reads the system and runs act on it.
func (d *Driver) call(ctx context.Context, what string, act func(context.Context, *gofish.APIClient, *system) error) error {
	err := d.turnstile.Pass(ctx, func(ctx context.Context) error {
		if now := time.Now(); now.Before(d.restUntil) {
			return fmt.Errorf("%w: nothing was sent: it asked to be left alone until %s (Retry-After)", power.ErrUnreachable, d.restUntil.UTC().Format(time.RFC3339))
		}
		return d.doubt(d.visit(ctx, act))
	})
	if err != nil {
		return fmt.Errorf("redfish %s: %s: %w", d.config.address, what, err)
	}
	return nil
}

// visit is one call, in its turn.
func (d *Driver) visit(ctx context.Context, act func(context.Context, *gofish.APIClient, *system) error) error {
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	if d.config.session {
		logout, err := d.openSession(ctx, c)
		if err != nil {
			return err
		}
		defer logout()
	}
	s, err := d.find(c)
	if err != nil {
		return err
	}
	d.loggedIn, d.doubts = true, 0
	return act(ctx, c, s)
}

// connect returns a client whose requests end with the context.
func (d *Driver) connect(ctx context.Context) (*gofish.APIClient, error) {
	if d.root == nil {
		root, err := gofish.ConnectContext(ctx, gofish.ClientConfig{
			Endpoint: d.config.endpoint(), HTTPClient: d.http, ReuseConnections: true, NoModifyTransport: true,
		})
		if err != nil {
			return nil, d.failure(err, false)
		}
		d.root = root
	}
	return d.root.WithContext(ctx), nil
}

// openSession logs in with a session. The one who calls it logs out, whatever
// became of the call.
func (d *Driver) openSession(ctx context.Context, c *gofish.APIClient) (logout func(), err error) {
	d.guard.forget()
	auth, err := c.Service.CreateSession(d.config.username, d.config.password.Reveal())
	if err != nil {
		return nil, d.failure(err, false)
	}
	if auth.Token == "" {
		return nil, fmt.Errorf("%w: %w", power.ErrUnreachable, errNoToken)
	}
	d.guard.login = func(req *http.Request) { req.Header.Set("X-Auth-Token", auth.Token) }
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutWait)
		defer cancel()
		_ = c.WithContext(ctx).Service.DeleteSession(auth.Session) // it times out in the BMC by itself
		d.guard.login = nil
		if d.closed.Load() { // Close did not see the connection, which was in use
			d.transport.CloseIdleConnections()
		}
	}, nil
}

// doubt turns a refusal of a credential that was good before into no answer,
// where that is known to be a whim of the maker's.
func (d *Driver) doubt(err error) error {
	if !errors.Is(err, power.ErrAuth) || !d.loggedIn || d.doubts == maxDoubts || !slices.Contains(doubtful, d.maker()) {
		return err
	}
	d.doubts++
	return fmt.Errorf("%w: it refused a credential that it took before, as BMCs of this maker do now and then; refusal %d of %d before that is believed", power.ErrUnreachable, d.doubts, maxDoubts)
}

// maker is the first word of the vendor in the service root.
func (d *Driver) maker() string {
	if d.root == nil {
		return ""
	}
	words := strings.Fields(strings.ToUpper(d.root.Service.Vendor))
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// sameHost says whether a URL leads to host:port.
func sameHost(u *url.URL, address string) bool {
	port := u.Port()
	if port == "" {
		port = strconv.Itoa(DefaultPort)
	}
	host, wantPort := splitAddress(address)
	return u.Scheme == "https" && port == wantPort && strings.EqualFold(u.Hostname(), host)
}

var _ power.Driver = (*Driver)(nil)
