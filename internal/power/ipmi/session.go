package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// How long [session.close] waits for the BMC's answer: the session of a BMC
// that does not answer ends by its own inactivity timeout, 60 s by default
// (IPMI 2.0 section 6.12.15).
const (
	closeWait     = 500 * time.Millisecond // a BMC that answered all that we asked
	closeWaitMute = 5 * time.Millisecond   // one that did not: sent, not awaited
)

// maxDatagram is more than any reply to what we ask, in bytes.
const maxDatagram = 1024

// errNoAnswer means that a request or its reply was lost, or that the BMC is
// slow, dead or hung. A read may be tried again with a new session.
var errNoAnswer = errors.New("no answer")

// These mean that a login failed that may go well in a moment.
var (
	errBusy   = errors.New("all of its sessions are in use")
	errForgot = errors.New("it forgot the session that was being set up")
)

// session is one RMCP+ session with one BMC: logged in once, used by one call,
// closed at its end.
type session struct {
	client *client.Client
	guard  *guard
	unhook func() bool // stops the abort at the context's end
	mute   bool        // the last request got no answer
	active bool        // logged in
	once   sync.Once
}

// login opens a session. The guard repeats what is not answered: go-ipmi's own
// retries are off, since they do not choose. All waits are doubled so often as
// patience says, for a BMC that is slow rather than far.
func login(ctx context.Context, s settings, p *pace, patience int) (*session, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", s.address)
	if errors.Is(err, context.DeadlineExceeded) { // the dialer looks at the clock itself
		return nil, fmt.Errorf("%w: %w: %w", power.ErrUnreachable, errNoAnswer, context.DeadlineExceeded)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", power.ErrUnreachable, err)
	}
	g := newGuard(conn, s, p)
	g.patience = min(patience, 3)
	c, err := client.NewClient("", 0, s.username, s.password.Reveal())
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %w", power.ErrUnreachable, err)
	}
	c.WithUDPProxy(dialed{g}).WithRetry(0).WithTimeout(maxTimeout).WithBufferSize(maxDatagram).
		WithCipherSuiteID(s.suite).WithMaxPrivilegeLevel(s.privilege)

	ses := &session{client: c, guard: g, unhook: context.AfterFunc(ctx, g.abort)}
	if err := guarded(func() error { return c.Connect(ctx) }); err != nil {
		err = ses.loginError(err)
		ses.close(ctx)
		return nil, err
	}
	ses.active = true
	return ses, nil
}

// state reads the chassis power.
func (s *session) state(ctx context.Context) (pool.Power, error) {
	var status *chassis.GetChassisStatusResponse
	err := guarded(func() (err error) {
		status, err = s.client.GetChassisStatus(ctx)
		return err
	})
	if err != nil {
		return pool.PowerUnknown, s.readError(err)
	}
	if status.PowerIsOn {
		return pool.PowerOn, nil
	}
	return pool.PowerOff, nil
}

// control sends one chassis control command, so many times at most, and waits at
// least so long for the answer to each, unless the context ends.
func (s *session) control(ctx context.Context, what chassis.ChassisControl, times int, least time.Duration) error {
	s.guard.send(times, least)
	defer s.guard.send(usualTimes, 0)
	before := s.guard.seen().sent
	err := guarded(func() error {
		_, err := s.client.ChassisControl(ctx, what)
		return err
	})
	if err == nil {
		return nil
	}
	after := s.guard.seen()
	s.mute = !after.answered
	if cc, ok := completionCode(err); ok {
		return changeError(cc)
	}
	switch {
	case after.sent == before:
		return fmt.Errorf("%w: the command was not sent: %w", power.ErrUnreachable, ended(ctx, err))
	case after.refused && after.sent == before+1:
		return fmt.Errorf("%w: nothing listens there any more", power.ErrUnreachable)
	}
	return fmt.Errorf("%w: the command was not answered (times sent: %d): %w", power.ErrAmbiguous, after.sent-before, ended(ctx, err))
}

// leave returns what closes the session, after the end of its call's context too.
func (s *session) leave(ctx context.Context) func() {
	ended := ctx.Err() != nil
	s.unhook()
	ctx = context.WithoutCancel(ctx)
	return func() {
		s.mute = s.mute || ended
		s.close(ctx)
	}
}

// close ends the session. It may be called more than once, whatever state the
// session is in, and takes little more than closeWait.
func (s *session) close(ctx context.Context) {
	s.once.Do(func() {
		wait := closeWait
		if s.mute || ctx.Err() != nil {
			wait = closeWaitMute
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
		defer cancel()
		if !s.active {
			cancel() // no session to close: without this, go-ipmi would ask and wait
		}
		_ = guarded(func() error { return s.client.Close(ctx) })
		s.unhook()
		_ = s.guard.Close()
	})
}

// loginError classifies what Connect returned. go-ipmi flattens the errors of
// the handshake into text, so the guard's own notes decide.
func (s *session) loginError(err error) error {
	saw := s.guard.seen()
	s.mute = !saw.answered
	if cc, ok := completionCode(err); ok {
		return privilegeError(cc)
	}
	switch {
	case saw.weaker:
		return fmt.Errorf("%w: it picked other algorithms than cipher suite %d asks for; set cipher_suite to one that the BMC has, or enable %[2]d there", power.ErrRefused, s.guard.suite)
	case saw.refused:
		return fmt.Errorf("%w: nothing listens on that UDP port; the BMC may be starting, or have IPMI over LAN disabled", power.ErrUnreachable)
	case saw.status != types.RmcpStatusCodeNoErrors && saw.mixed:
		// The two can have overtaken each other. Its answer to message 1 has
		// shown that the BMC knows our password, so this is not about that.
		return fmt.Errorf("%w: %w: it mixed up a message that was repeated (RMCP+ status %#02x)", power.ErrUnreachable, errNoAnswer, uint8(saw.status))
	case saw.status != types.RmcpStatusCodeNoErrors:
		return setupError(saw.status, s.guard.suite)
	case strings.Contains(err.Error(), client.ErrRAKPAuthentication.Error()):
		return fmt.Errorf("%w: wrong password, or no such user", power.ErrAuth)
	case !saw.answered:
		return saw.noAnswer()
	}
	return fmt.Errorf("%w: login failed: %w", power.ErrUnreachable, brief(err))
}

// readError classifies what a read returned.
func (s *session) readError(err error) error {
	saw := s.guard.seen()
	s.mute = !saw.answered
	cc, ok := completionCode(err)
	switch {
	case ok && cc == 0xcf: // a repeat, of which it cannot say again what it said
		return fmt.Errorf("%w: %w: %s", power.ErrUnreachable, errNoAnswer, describe(cc))
	case ok:
		return fmt.Errorf("%w: %s", power.ErrRefused, describe(cc))
	case saw.refused:
		return fmt.Errorf("%w: nothing listens there any more", power.ErrUnreachable)
	case !saw.answered:
		return saw.noAnswer()
	}
	return fmt.Errorf("%w: %w", power.ErrUnreachable, brief(err))
}

// noAnswer is the error of a request that was not answered.
func (s seen) noAnswer() error {
	if s.dropped > 0 {
		return fmt.Errorf("%w: %w that the BMC had signed; others were dropped: %d", power.ErrUnreachable, errNoAnswer, s.dropped)
	}
	return fmt.Errorf("%w: %w", power.ErrUnreachable, errNoAnswer)
}

// setupError classifies a status of Open Session or RAKP: IPMI 2.0 table 13-15.
func setupError(status types.RmcpStatusCode, suite types.CipherSuiteID) error {
	switch status {
	case types.RmcpStatusCodeUnauthorizedName, types.RmcpStatusCodeInvalidNameLength,
		types.RmcpStatusCodeUnauthorizedGUID, types.RmcpStatusCodeInvalidIntegrityCheckValue:
		return fmt.Errorf("%w: %s (RMCP+ status %#02x)", power.ErrAuth, status, uint8(status))
	case types.RmcpStatusCodeInvalidRole, types.RmcpStatusCodeUnauthorizedRoleOfPriLevel:
		return fmt.Errorf("%w: the account may not log in with this privilege; raise it in the BMC (OPERATOR is enough) or set privilege (RMCP+ status %#02x)", power.ErrRefused, uint8(status))
	case types.RmcpStatusCodeNoResToCreateSess, types.RmcpStatusCodeNoResToCreateSessAtRole:
		return fmt.Errorf("%w: %w; close other tools, or wait for them to time out (RMCP+ status %#02x)", power.ErrUnreachable, errBusy, uint8(status))
	case types.RmcpStatusCodeInvalidSessionID:
		return fmt.Errorf("%w: %w (RMCP+ status %#02x)", power.ErrUnreachable, errForgot, uint8(status))
	case types.RmcpStatusCodeInvalidAuthAlg, types.RmcpStatusCodeInvalidIntegrityAlg,
		types.RmcpStatusCodeInvalidConfidentAlg, types.RmcpStatusCodeNoMatchingAuthPayload,
		types.RmcpStatusCodeNoMatchingIntegrityPayload, types.RmcpStatusCodeNoCipherSuiteMatch:
		return fmt.Errorf("%w: it does not offer cipher suite %d; enable it there, or set cipher_suite (RMCP+ status %#02x)", power.ErrRefused, suite, uint8(status))
	}
	return fmt.Errorf("%w: login failed: %s (RMCP+ status %#02x)", power.ErrUnreachable, status, uint8(status))
}

// privilegeError classifies a completion code of the commands around the
// handshake, which is Set Session Privilege Level's in all known cases.
func privilegeError(cc types.CompletionCode) error {
	switch cc {
	case 0x80, 0x81: // IPMI 2.0 section 22.18: level not available, or above a limit
		return fmt.Errorf("%w: the account may not use this privilege; raise it in the BMC (OPERATOR is enough) or set privilege (completion code %#02x)", power.ErrRefused, uint8(cc))
	}
	return fmt.Errorf("%w: login failed: %s", power.ErrUnreachable, describe(cc))
}

// changeError classifies a completion code of Chassis Control: IPMI 2.0
// table 5-2.
func changeError(cc types.CompletionCode) error {
	switch cc {
	case 0xc1, 0xc2, // no such command
		0xc9, 0xcc, // no such action: how BMCs answer a soft-off that they do not have
		0xd6: // sub-function disabled or unavailable
		return fmt.Errorf("%w: %s", power.ErrUnsupported, describe(cc))
	case 0xc3, 0xce, 0xcf: // timed out in the BMC, no response available, duplicate
		return fmt.Errorf("%w: %s", power.ErrAmbiguous, describe(cc))
	case 0xd4:
		return fmt.Errorf("%w: the account's privilege is not enough; it needs OPERATOR (%s)", power.ErrRefused, describe(cc))
	}
	return fmt.Errorf("%w: %s", power.ErrRefused, describe(cc))
}

// completionCode finds the BMC's own answer in an error.
func completionCode(err error) (types.CompletionCode, bool) {
	answer, ok := types.IsResponseError(err)
	if !ok || answer.CompletionCode() == types.CodeOK { // OK: the body could not be read
		return 0, false
	}
	return answer.CompletionCode(), true
}

func describe(cc types.CompletionCode) string {
	return fmt.Sprintf("%s (completion code %#02x)", cc, uint8(cc))
}

// ended prefers the context's reason to go-ipmi's text for a call that it cut
// short.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return cause(ctx)
	}
	return brief(err)
}

// cause is why a context ended, or will in a moment.
func cause(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return context.DeadlineExceeded
}

// brief cuts an error's text to a line of a log. go-ipmi wraps deeply and over
// several lines.
func brief(err error) error {
	const most = 200
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	return errors.New(text)
}

// guarded turns a panic of go-ipmi in this goroutine into an error. Those in
// goroutines of its own are for the [guard] to prevent.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("go-ipmi panicked: %v", p)
		}
	}()
	return f()
}

// dialed hands go-ipmi a socket that is open already. It is how one can bring
// one's own: go-ipmi v0.9.1 itself dials IPv6 literals wrongly and resolves
// names without a deadline.
type dialed struct{ conn net.Conn }

func (d dialed) Dial(string, string) (net.Conn, error) { return d.conn, nil }
