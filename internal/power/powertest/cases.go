package powertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/leaktest"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

const (
	// plenty is a deadline that a controller in good health meets on a busy
	// machine.
	plenty = time.Minute
	// short is the deadline of calls that are expected to run into it.
	short = time.Second
	// grace is how long after its deadline a call is given up. It tells a
	// driver that obeys from one that hangs, and is no figure of speed.
	grace = 10 * time.Second
	// settle is how long a controller is watched for a change that is carried
	// out late, or once more.
	settle = time.Second
)

// bench is a controller with a driver for it.
type bench struct {
	Controller
	t      *testing.T
	rig    Rig
	driver power.Driver
}

func newBench(t *testing.T, rig Rig, c Controller) *bench {
	b := &bench{Controller: c, t: t, rig: rig}
	b.driver = b.open(c.Open)
	return b
}

// open opens a driver and closes it at the end of the test.
func (b *bench) open(open func() (power.Driver, error)) power.Driver {
	b.t.Helper()
	d, err := open()
	b.check("open", err)
	if err != nil {
		b.t.Fatalf("open: %v", err)
	}
	b.t.Cleanup(func() { _ = d.Close() })
	b.checkText("printing the driver", fmt.Sprintf("%v %+v %#v", d, d, d))
	return d
}

// call makes one call with a deadline. It ends the test if the call hangs.
func (b *bench) call(what string, limit time.Duration, f func(context.Context) error) error {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		b.check(what, err)
		return err
	case <-time.After(limit + grace):
		b.t.Fatalf("%s: not back %s after its deadline", what, grace)
		return nil
	}
}

func (b *bench) state(limit time.Duration) (found pool.Power, err error) {
	b.t.Helper()
	err = b.call("state", limit, func(ctx context.Context) (err error) {
		found, err = b.driver.State(ctx)
		return err
	})
	if err != nil && found != pool.PowerUnknown {
		b.t.Errorf("state: %s with an error, want unknown: %v", found, err)
	}
	return found, err
}

func (b *bench) on(limit time.Duration) error {
	b.t.Helper()
	return b.call("on", limit, b.driver.On)
}

func (b *bench) off(limit time.Duration, how power.Off) error {
	b.t.Helper()
	return b.call(how.String()+" off", limit, func(ctx context.Context) error { return b.driver.Off(ctx, how) })
}

// cut makes a change whose answer does not come before its deadline. On a machine
// that stands still for a while a deadline may pass before the change is sent. The
// driver says so, and then it must be true; with more time it is sent.
func (b *bench) cut(what string, change func(limit time.Duration) error) error {
	b.t.Helper()
	for limit := short; ; limit *= 4 {
		err := change(limit)
		if !errors.Is(err, power.ErrUnreachable) || errors.Is(err, power.ErrAmbiguous) || limit > plenty {
			return err
		}
		time.Sleep(settle)
		if n := b.Executions(); n > 0 {
			b.t.Fatalf("%s was carried out %d times, and its error says that it was not sent: %v", what, n, err)
		}
	}
}

// want ends the test unless the chassis gets to a power state with so many
// changes carried out. A controller accepts a change before it is done.
func (b *bench) want(p pool.Power, executions int) {
	b.t.Helper()
	for end := time.Now().Add(plenty); b.Power() != p && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if got, n := b.Power(), b.Executions(); got != p || n != executions {
		b.t.Fatalf("chassis is %s after %d changes, want %s after %d", got, n, p, executions)
	}
}

func (b *bench) succeed(what string, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// wantErr ends the test unless err is of one of the classes.
func (b *bench) wantErr(what string, err error, classes ...error) {
	b.t.Helper()
	for _, class := range classes {
		if errors.Is(err, class) {
			return
		}
	}
	b.t.Fatalf("%s: %v, want an error of the class %q", what, err, classes)
}

func stateTellsTheTruth(b *bench) {
	for _, want := range []pool.Power{pool.PowerOff, pool.PowerOn, pool.PowerOn, pool.PowerOff} {
		b.SetPower(want)
		got, err := b.state(plenty)
		if err != nil || got != want {
			b.t.Fatalf("state is %s, %v, want %s", got, err, want)
		}
	}
	b.want(pool.PowerOff, 0)
}

func on(b *bench) {
	b.succeed("on", b.on(plenty))
	b.want(pool.PowerOn, 1)
}

func onWhenOn(b *bench) {
	b.SetPower(pool.PowerOn)
	b.succeed("on", b.on(plenty))
	b.want(pool.PowerOn, 0)
}

func softOff(b *bench) {
	b.SetPower(pool.PowerOn)
	b.succeed("soft off", b.off(plenty, power.Soft))
	b.want(pool.PowerOff, 1)
}

func softOffWhenOff(b *bench) {
	b.succeed("soft off", b.off(plenty, power.Soft))
	b.want(pool.PowerOff, 0)
}

func hardOff(b *bench) {
	b.SetPower(pool.PowerOn)
	b.succeed("hard off", b.off(plenty, power.Hard))
	b.want(pool.PowerOff, 1)
}

func hardOffWhenOff(b *bench) {
	b.succeed("hard off", b.off(plenty, power.Hard))
	b.want(pool.PowerOff, 0)
}

// slowBoot: a host that is on its way is not powered on again.
func slowBoot(b *bench) {
	if b.Slow != nil {
		b.Slow(settle / 2)
	}
	b.succeed("on", b.on(plenty))
	for range 3 {
		b.succeed("on, while it boots", b.on(plenty))
		_, err := b.state(plenty)
		b.succeed("state, while it boots", err)
	}
	b.want(pool.PowerOn, 1)
}

// stateFlaps: what was read before is not believed.
func stateFlaps(b *bench) {
	for range 3 {
		b.SetPower(pool.PowerOn)
		b.succeed("on when on", b.on(plenty))
		// A power-on may be sent twice, and what comes second is carried out with
		// the button. What was sent before a read has come before it is answered.
		if got, err := b.state(plenty); err != nil || got != pool.PowerOn {
			b.t.Fatalf("state is %s, %v, want on", got, err)
		}
		b.SetPower(pool.PowerOff)
		b.succeed("soft off when off", b.off(plenty, power.Soft))
		if got, err := b.state(plenty); err != nil || got != pool.PowerOff {
			b.t.Fatalf("state is %s, %v, want off", got, err)
		}
	}
	b.want(pool.PowerOff, 0)
}

func callsAtOnce(b *bench) {
	ctx, cancel := context.WithTimeout(context.Background(), plenty)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = b.driver.State(ctx)
			} else {
				err = b.driver.On(ctx)
			}
			if err != nil {
				b.t.Errorf("call %d of 6 at once: %v", i, err)
			}
		})
	}
	wg.Wait()
	b.want(pool.PowerOn, 1)
}

func deadlinePassedBefore(b *bench) {
	b.wantErr("on", b.on(-time.Second), power.ErrUnreachable)
	_, err := b.state(-time.Second)
	b.wantErr("state", err, power.ErrUnreachable)
	b.want(pool.PowerOff, 0)
}

func cancelled(b *bench) {
	b.Hang()
	err := b.call("state", plenty, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(200*time.Millisecond, cancel)
		began := time.Now()
		_, err := b.driver.State(ctx)
		if took := time.Since(began); took > grace {
			b.t.Errorf("state: back %s after it was cancelled", took)
		}
		return err
	})
	b.wantErr("state", err, power.ErrUnreachable)
}

// silent is what must hold of a controller that answers no read: what it is
// asked is not reached, and a change may or may not have been.
func silent(b *bench) {
	b.t.Helper()
	_, err := b.state(short / 2)
	b.wantErr("state", err, power.ErrUnreachable)
	b.wantErr("on", b.on(short/2), power.ErrUnreachable, power.ErrAmbiguous)
	b.wantErr("hard off", b.off(short/2, power.Hard), power.ErrUnreachable, power.ErrAmbiguous)
}

func hung(b *bench) {
	b.Hang()
	silent(b)
}

func blackHole(b *bench) {
	b.BlackHole()
	silent(b)
	b.want(pool.PowerOff, 0)
}

func halfOpen(b *bench) {
	b.HalfOpen()
	silent(b)
	b.want(pool.PowerOff, 0)
}

func nothingThere(b *bench) {
	b.Stop()
	_, err := b.state(plenty)
	b.wantErr("state", err, power.ErrUnreachable)
	b.wantErr("on", b.on(plenty), power.ErrUnreachable)
}

// answerLost: a driver may look again and find that it is done. If it does not,
// it must say that nobody knows.
func answerLost(b *bench) {
	b.LoseAnswers()
	if err := b.cut("on", b.on); err != nil {
		b.wantErr("on", err, power.ErrAmbiguous)
	}
	b.want(pool.PowerOn, 1)
	time.Sleep(settle)
	b.want(pool.PowerOn, 1)
}

// answerLate: what is carried out late must not have been sent again, or it
// would cut off a host that was powered on meanwhile.
func answerLate(b *bench) {
	b.SetPower(pool.PowerOn)
	var late time.Duration
	err := b.cut("hard off", func(limit time.Duration) error {
		late = limit + settle/2
		b.Late(late)
		return b.off(limit, power.Hard)
	})
	b.wantErr("hard off", err, power.ErrAmbiguous)
	time.Sleep(late + 2*settle)
	if n := b.Executions(); n > 1 {
		b.t.Fatalf("one call was carried out %d times", n)
	}
}

func wrongPassword(b *bench) {
	b.driver = b.open(b.OpenWrong)
	_, err := b.state(plenty)
	b.wantErr("state", err, power.ErrAuth)
	if n := b.Logins(); n != 1 {
		b.t.Fatalf("one call with a wrong password made %d logins", n)
	}
	b.wantErr("on", b.on(plenty), power.ErrAuth)
	_, err = b.state(plenty)
	b.wantErr("state", err, power.ErrAuth)
	if n := b.Logins(); n != 1 {
		b.t.Fatalf("the refused credential was tried again: %d logins", n)
	}
	b.want(pool.PowerOff, 0)
}

func noSoftOff(b *bench) {
	b.NoSoftOff()
	b.SetPower(pool.PowerOn)
	b.wantErr("soft off", b.off(plenty, power.Soft), power.ErrUnsupported, power.ErrRefused)
	b.want(pool.PowerOn, 0)
	b.succeed("hard off", b.off(plenty, power.Hard))
	b.want(pool.PowerOff, 1)
}

func noCapacity(b *bench) {
	b.NoCapacity()
	b.wantErr("on", b.on(plenty), power.ErrCapacity)
	b.want(pool.PowerOff, 0)
}

func refused(b *bench) {
	b.Refuse()
	b.wantErr("on", b.on(plenty), power.ErrRefused)
	b.want(pool.PowerOff, 0)
	b.SetPower(pool.PowerOn)
	b.wantErr("hard off", b.off(plenty, power.Hard), power.ErrRefused)
	b.want(pool.PowerOn, 0)
}

func closed(b *bench) {
	unused := b.open(b.Open)
	b.succeed("close a driver that was not used", unused.Close())

	_, err := b.state(plenty)
	b.succeed("state", err)
	b.succeed("close", b.driver.Close())
	b.succeed("close again", b.driver.Close())
	_, err = b.state(plenty)
	b.wantErr("state after close", err, power.ErrUnreachable)
	b.wantErr("on after close", b.on(plenty), power.ErrUnreachable)
	b.want(pool.PowerOff, 0)
}

func closedAfterFailure(b *bench) {
	b.Hang()
	_, err := b.state(short)
	b.wantErr("state", err, power.ErrUnreachable)
	err = b.call("close", 0, func(context.Context) error { return b.driver.Close() })
	b.succeed("close", err)
}

func noGoroutineLeft(b *bench) {
	b.succeed("close", b.driver.Close()) // drivers may share what they speak through until the last is closed
	for range 5 {
		d := b.open(b.Open)
		ctx, cancel := context.WithTimeout(context.Background(), plenty)
		_, err := d.State(ctx)
		b.succeed("state", err)
		b.succeed("on", d.On(ctx))
		cancel()
		b.succeed("close", d.Close())
	}
	b.wantNoGoroutines()

	b.Hang()
	for range 3 {
		d := b.open(b.Open)
		ctx, cancel := context.WithTimeout(context.Background(), short/2)
		_, err := d.State(ctx)
		b.wantErr("state", err, power.ErrUnreachable)
		cancel()
		b.succeed("close", d.Close())
	}
	b.wantNoGoroutines()
}

// wantNoGoroutines ends the test if goroutines of the driver stay.
func (b *bench) wantNoGoroutines() {
	b.t.Helper()
	if len(b.rig.Frames) == 0 {
		b.t.Fatal("the rig names no frames to look for")
	}
	if left := leaktest.Left(b.rig.Frames, grace); len(left) > 0 {
		b.t.Fatalf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
}

func noSecretInArgv(b *bench) {
	_, err := b.state(plenty)
	b.succeed("state", err)
	b.succeed("on", b.on(plenty))
	argv := b.Argv()
	if len(argv) == 0 {
		b.t.Fatal("the driver started no process")
	}
	for _, arg := range argv {
		if strings.Contains(arg, b.rig.Secret) {
			b.t.Errorf("the credential is in an argument: %s", strings.ReplaceAll(arg, b.rig.Secret, "*****"))
		}
	}
}
