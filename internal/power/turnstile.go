package power

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// errClosed is why calls fail after [Turnstile.Close].
var errClosed = errors.New("driver is closed")

// Turnstile stands in front of one controller and keeps what controllers want
// of every driver: one call at a time, a rest between two calls, a bound on
// each, and no further login once one was refused. BMCs lock an account after
// a few failed logins, and poller, actuator and operator's command would reach
// that number together within a minute.
//
// A refused login, which is an act that answers [ErrAuth], locks the turnstile
// for AuthBackoff. After that one call is let through, and if that is refused
// too it locks again. A new credential comes with a new driver, and so with a
// new turnstile.
//
// Make one with [NewTurnstile].
type Turnstile struct {
	limits Limits

	life context.Context // ends with Close, and every call with it
	end  context.CancelCauseFunc

	turn chan struct{} // holds a token while no call is under way
	lock *AuthLock

	nextAt time.Time // when the next call may begin; for the holder of the token

	mu      sync.Mutex
	tidying chan struct{} // closed at the end of the last tidying up; nil before the first
}

// Limits are the times of a [Turnstile]. A zero means no rest, no bound, no
// lock.
type Limits struct {
	Timeout     time.Duration // the longest that one call may take once it is its turn
	MinInterval time.Duration // the least time from one call's end to the next one's begin
	AuthBackoff time.Duration // how long no call is let through after a refused login
	// Lock is of a credential that several controllers share, so that one
	// refusal counts for all of them, for its own time. Nil makes one.
	Lock *AuthLock
}

// NewTurnstile returns an open turnstile.
func NewTurnstile(limits Limits) *Turnstile {
	t := &Turnstile{limits: limits, turn: make(chan struct{}, 1), lock: limits.Lock}
	if t.lock == nil {
		t.lock = NewAuthLock(limits.AuthBackoff)
	}
	t.life, t.end = context.WithCancelCause(context.Background())
	t.turn <- struct{}{}
	return t
}

// Pass waits for the controller's turn and runs act in it, with a context that
// ends at the deadline of ctx, at the limit of one call or when the turnstile
// is closed. It returns what act did, or [ErrUnreachable] or [ErrAuth] when act
// was not run, so that nothing was sent.
func (t *Turnstile) Pass(ctx context.Context, act func(context.Context) error) error {
	return t.PassAndTidy(ctx, func(ctx context.Context) (func(), error) { return nil, act(ctx) })
}

// PassAndTidy is Pass for an act after which there is something to tidy up that
// its caller need not wait for. What act returns for that, if anything, runs in
// the same turn, whatever became of act, while PassAndTidy returns. The context
// of act has ended then. It must bound itself: the next call and
// [Turnstile.Close] wait for it.
func (t *Turnstile) PassAndTidy(ctx context.Context, act func(context.Context) (tidy func(), err error)) error {
	if t.life.Err() != nil {
		return fmt.Errorf("%w: nothing was sent: %w", ErrUnreachable, errClosed)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(t.life, func() { cancel(errClosed) })()

	if err := t.enter(ctx); err != nil {
		return err
	}
	var tidy func()
	var err error
	defer func() {
		if tidy == nil {
			t.leave()
		}
	}()
	if t.limits.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, t.limits.Timeout)
		defer stop()
	}
	tidy, err = act(ctx)
	t.lock.note(err, time.Now())
	if tidy != nil {
		t.tidy(tidy)
	}
	return err
}

// tidy runs what is left of a turn, and ends it.
func (t *Turnstile) tidy(tidy func()) {
	done := make(chan struct{})
	t.mu.Lock()
	t.tidying = done
	t.mu.Unlock()
	go func() {
		defer close(done)
		defer t.leave()
		tidy()
	}()
}

// Close ends the call that is under way, if any, and refuses all later ones. It
// waits for what is being tidied up.
func (t *Turnstile) Close() {
	t.end(errClosed)
	t.mu.Lock()
	tidying := t.tidying
	t.mu.Unlock()
	if tidying != nil {
		<-tidying
	}
}

// enter takes the token, unless it fails.
func (t *Turnstile) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return notSent(ctx, "its deadline had passed before it began")
	}
	select {
	case <-t.turn:
	case <-ctx.Done():
		return notSent(ctx, "another call was under way")
	}
	if err := t.rest(ctx); err != nil {
		t.turn <- struct{}{}
		return err
	}
	return nil
}

// rest waits until the controller had its rest, if it is not locked.
func (t *Turnstile) rest(ctx context.Context) error {
	now := time.Now()
	if err := t.lock.check(now); err != nil {
		return err
	}
	timer := time.NewTimer(t.nextAt.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return notSent(ctx, "the least interval between two calls was not over")
	}
}

// leave gives the token back.
func (t *Turnstile) leave() {
	t.nextAt = time.Now().Add(t.limits.MinInterval)
	t.turn <- struct{}{}
}

// AuthLock keeps a credential that was refused from being tried again at once.
// It is safe for concurrent use. Make one with [NewAuthLock].
type AuthLock struct {
	backoff time.Duration

	mu      sync.Mutex
	at      time.Time // of the refusal; meaningful with refused
	refused error     // what the login was refused with, nil if none was
}

// NewAuthLock returns an open lock that a refusal shuts for so long.
func NewAuthLock(backoff time.Duration) *AuthLock { return &AuthLock{backoff: backoff} }

// note shuts the lock if err is a refused login.
func (l *AuthLock) note(err error, now time.Time) {
	if !errors.Is(err, ErrAuth) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.refused = now, err
}

// check returns [ErrAuth] while the lock is shut.
func (l *AuthLock) check(now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := l.at.Add(l.backoff)
	if l.refused == nil || !now.Before(until) {
		return nil
	}
	return fmt.Errorf("%w: not tried again before %s, because controllers lock accounts out; correct the credential and reload (login refused at %s: %w)",
		ErrAuth, clock(until), clock(l.at), l.refused)
}

func notSent(ctx context.Context, why string) error {
	return fmt.Errorf("%w: nothing was sent: %s: %w", ErrUnreachable, why, context.Cause(ctx))
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
