package power_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

var errLogin = fmt.Errorf("%w: no such user", power.ErrAuth)

func TestTurnstileLetsOneThroughAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := power.NewTurnstile(power.Limits{MinInterval: time.Second})
		start := time.Now()
		var inside, passed atomic.Int32
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				err := ts.Pass(t.Context(), func(context.Context) error {
					if inside.Add(1) > 1 {
						t.Error("two calls at once")
					}
					time.Sleep(3 * time.Second)
					inside.Add(-1)
					passed.Add(1)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got, want := time.Since(start), 19*time.Second; passed.Load() != 5 || got != want {
			t.Errorf("%d calls of 3s with rests of 1s took %s, want 5 in %s", passed.Load(), got, want)
		}
	})
}

// What is tidied up after a call is not waited for by its caller, but by the next
// call and by Close.
func TestTurnstileTidiesUpInTheSameTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := power.NewTurnstile(power.Limits{MinInterval: time.Second})
		start := time.Now()
		at := func(what string, want time.Duration) {
			t.Helper()
			if got := time.Since(start); got != want {
				t.Errorf("%s after %s, want %s", what, got, want)
			}
		}
		call := func(answer error) error {
			return ts.PassAndTidy(t.Context(), func(ctx context.Context) (func(), error) {
				return func() {
					time.Sleep(2 * time.Second)
					if ctx.Err() == nil {
						t.Error("the call's context outlives the call")
					}
				}, answer
			})
		}
		if err := call(power.ErrRefused); !errors.Is(err, power.ErrRefused) {
			t.Errorf("first call: %v", err)
		}
		at("the first call is back", 0)
		if err := call(nil); err != nil {
			t.Error(err)
		}
		at("the second call is back", 3*time.Second)
		ts.Close()
		at("it is closed", 5*time.Second)
		if err := call(nil); !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("call after Close: %v", err)
		}
	})
}

func TestTurnstileLocksAfterARefusedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := power.NewTurnstile(power.Limits{AuthBackoff: 30 * time.Minute})
		logins := 0
		try := func(answer error) error {
			return ts.Pass(t.Context(), func(context.Context) error { logins++; return answer })
		}

		at := func(d time.Duration, answer error, wantErr error, wantLogins int) {
			t.Helper()
			time.Sleep(d)
			if err := try(answer); !errors.Is(err, wantErr) || logins != wantLogins {
				t.Errorf("got %v and %d logins so far, want %v and %d", err, logins, wantErr, wantLogins)
			}
		}
		at(0, nil, nil, 1)
		at(0, errLogin, power.ErrAuth, 2)
		at(0, nil, power.ErrAuth, 2)
		at(29*time.Minute, nil, power.ErrAuth, 2)
		at(time.Minute, errLogin, power.ErrAuth, 3) // one try, refused again
		at(time.Minute, nil, power.ErrAuth, 3)
		at(29*time.Minute, nil, nil, 4) // one try, accepted
		at(0, nil, nil, 5)
	})
}

// Who shares a credential shares its refusal.
func TestTurnstilesOfOneCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := power.NewAuthLock(time.Minute)
		a, b := power.NewTurnstile(power.Limits{Lock: lock}), power.NewTurnstile(power.Limits{Lock: lock})
		err := a.Pass(t.Context(), func(context.Context) error { return errLogin })
		if !errors.Is(err, power.ErrAuth) {
			t.Fatalf("the refusal itself: %v", err)
		}
		err = b.Pass(t.Context(), func(context.Context) error { t.Error("ran with a refused credential"); return nil })
		if !errors.Is(err, power.ErrAuth) {
			t.Errorf("the other: %v, want ErrAuth", err)
		}
		time.Sleep(time.Minute)
		if err := b.Pass(t.Context(), func(context.Context) error { return nil }); err != nil {
			t.Errorf("the other after the time: %v", err)
		}
	})
}

func TestTurnstileObeysDeadlines(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

	synctest.Test(t, func(t *testing.T) {
		ts := power.NewTurnstile(power.Limits{Timeout: 10 * time.Second, MinInterval: 5 * time.Second})
		start := time.Now()
		if err := ts.Pass(t.Context(), hang); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("a call without a deadline: %v after %s, want the limit's, after 10s", err, time.Since(start))
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := ts.Pass(ctx, func(context.Context) error { t.Error("ran within the rest"); return nil })
		if !errors.Is(err, power.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("deadline within the rest: %v", err)
		}
		err = ts.Pass(ctx, func(context.Context) error { t.Error("ran after its deadline"); return nil })
		if !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("deadline passed before: %v", err)
		}

		time.Sleep(time.Minute)
		go func() { _ = ts.Pass(t.Context(), hang) }()
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := ts.Pass(ctx, hang); !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("deadline while another call hung: %v", err)
		}
		ts.Close()
	})
}

func TestTurnstileClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := power.NewTurnstile(power.Limits{})
		result := make(chan error, 1)
		go func() {
			result <- ts.Pass(t.Context(), func(ctx context.Context) error {
				<-ctx.Done()
				return context.Cause(ctx)
			})
		}()
		synctest.Wait()
		ts.Close()
		ts.Close()
		if err := <-result; err == nil {
			t.Error("the call under way ended without an error")
		}
		err := ts.Pass(t.Context(), func(context.Context) error { t.Error("ran after Close"); return nil })
		if !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestParseDuration(t *testing.T) {
	for _, c := range []struct {
		text string
		want time.Duration
		err  string
	}{
		{"", time.Minute, ""},
		{"90s", 90 * time.Second, ""},
		{"2m", 2 * time.Minute, ""},
		{"15", time.Minute, `"15" is not a duration with a unit, such as "1m0s"`},
		{"-3s", time.Minute, "-3s is outside of 1s to 2m0s"},
		{"1h", time.Minute, "1h0m0s is outside of 1s to 2m0s"},
	} {
		got, err := power.ParseDuration(c.text, time.Minute, time.Second, 2*time.Minute)
		if text := fmt.Sprint(err); got != c.want || (err != nil) != (c.err != "") || (err != nil && text != c.err) {
			t.Errorf("%q: got %s, %v, want %s, %s", c.text, got, err, c.want, c.err)
		}
	}
}
