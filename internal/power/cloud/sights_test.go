package cloud

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

// reader is an API that takes a second to answer.
type reader struct {
	mu     sync.Mutex
	phase  Phase
	reads  [][]string
	ended  int // reads that nobody waited for
	answer error
	put    int // times that it puts a request off
}

func (r *reader) read(ctx context.Context, ids []string) (map[string]Instance, error) {
	r.mu.Lock()
	r.reads = append(r.reads, ids)
	phase, answer := r.phase, r.answer // as it is when the request begins
	if r.put != 0 {
		r.put--
		answer = &Throttled{Err: fmt.Errorf("%w: too often", power.ErrUnreachable)}
	}
	r.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		r.mu.Lock()
		r.ended++
		r.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", power.ErrUnreachable, ctx.Err())
	}
	found := make(map[string]Instance)
	for _, id := range ids {
		found[id] = Instance{Phase: phase}
	}
	return found, answer
}

func TestReadsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{phase: Off}
		s := newSights(r.read, 40)
		defer s.close()
		var wg sync.WaitGroup
		for n := range 100 {
			wg.Go(func() {
				if i, err := s.get(t.Context(), fmt.Sprint(n)); err != nil || i.Phase != Off {
					t.Errorf("%d: %v, %v", n, i, err)
				}
			})
		}
		wg.Wait()
		sizes := 0
		for _, ids := range r.reads {
			sizes += len(ids)
			if len(ids) > 40 {
				t.Errorf("a request for %d instances, and at most 40 are allowed", len(ids))
			}
		}
		if len(r.reads) != 3 || sizes != 100 {
			t.Errorf("100 reads made %d requests for %d instances, want 3 for 100", len(r.reads), sizes)
		}
	})
}

// A read that comes while a request is under way is not answered by it: the
// instance may have changed since that began.
func TestNoAnswerIsOlderThanItsQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{phase: Off}
		s := newSights(r.read, 40)
		defer s.close()
		first := make(chan Instance, 1)
		go func() {
			i, _ := s.get(t.Context(), "a")
			first <- i
		}()
		time.Sleep(gather + time.Millisecond) // it is under way
		r.mu.Lock()
		r.phase = On
		r.mu.Unlock()
		second, err := s.get(t.Context(), "a")
		if err != nil || second.Phase != On || (<-first).Phase != Off || len(r.reads) != 2 {
			t.Errorf("the second read is %v, %v with %d requests; want on, with 2", second, err, len(r.reads))
		}
	})
}

func TestReadEndsWithItsLastReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{phase: Off}
		s := newSights(r.read, 40)
		defer s.close()
		short, cancelShort := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancelShort()
		var long Instance
		var longErr error
		var wg sync.WaitGroup
		wg.Go(func() { long, longErr = s.get(t.Context(), "a") })
		wg.Go(func() {
			if _, err := s.get(short, "b"); !errors.Is(err, power.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the impatient one: %v", err)
			}
		})
		wg.Wait()
		if longErr != nil || long.Phase != Off || r.ended != 0 {
			t.Errorf("the patient one: %v, %v; %d requests were ended", long, longErr, r.ended)
		}

		alone, cancelAlone := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancelAlone()
		if _, err := s.get(alone, "a"); err == nil {
			t.Error("an answer in a tenth of a second")
		}
		synctest.Wait()
		if r.ended != 1 {
			t.Errorf("%d requests were ended, want the one that nobody waits for", r.ended)
		}

		gone, cancelGone := context.WithTimeout(t.Context(), time.Millisecond) // while it gathers
		defer cancelGone()
		before := len(r.reads)
		if _, err := s.get(gone, "a"); err == nil {
			t.Error("an answer in a millisecond")
		}
		time.Sleep(time.Second)
		if len(r.reads) != before {
			t.Error("a request was made that nobody waits for")
		}
	})
}

func TestReadsThatArePutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{phase: Off, put: 2}
		s := newSights(r.read, 40)
		defer s.close()
		if _, err := s.get(t.Context(), "a"); err != nil || len(r.reads) != 3 {
			t.Errorf("%v after %d requests, want none after 3", err, len(r.reads))
		}
		r.put = -1
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var put *Throttled
		if _, err := s.get(ctx, "a"); !errors.As(err, &put) {
			t.Errorf("put off for ever: %v", err)
		}
	})
}

func TestClosedSights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reader{phase: Off}
		s := newSights(r.read, 40)
		result := make(chan error, 1)
		go func() {
			_, err := s.get(t.Context(), "a")
			result <- err
		}()
		time.Sleep(100 * time.Millisecond)
		s.close()
		if err := <-result; !errors.Is(err, power.ErrUnreachable) {
			t.Errorf("the read under way: %v", err)
		}
		if _, err := s.get(t.Context(), "a"); !errors.Is(err, power.ErrUnreachable) || len(r.reads) != 1 {
			t.Errorf("a later read: %v, with %d requests", err, len(r.reads))
		}
	})
}

func TestPanicOfAnAPI(t *testing.T) {
	s := newSights(func(context.Context, []string) (map[string]Instance, error) { panic("index out of range") }, 40)
	defer s.close()
	if _, err := s.get(t.Context(), "a"); !errors.Is(err, power.ErrUnreachable) {
		t.Errorf("%v, want an error and a process that lives on", err)
	}
}

func TestInsist(t *testing.T) {
	put := &Throttled{Err: power.ErrRefused}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		n := 0
		if err := insist(ctx, func() error { n++; return put }); !errors.Is(err, power.ErrRefused) || ctx.Err() != nil || n < 6 || n > 14 {
			t.Errorf("put off for ever: %v after %d requests, context %v", err, n, ctx.Err())
		}

		n = 0
		patient := &Throttled{Err: power.ErrRefused, After: time.Hour}
		began := time.Now()
		if err := insist(ctx, func() error { n++; return patient }); err == nil || n != 1 || time.Since(began) != 0 {
			t.Errorf("asked to wait past the deadline: %v after %d requests and %s", err, n, time.Since(began))
		}

		for _, final := range []error{nil, power.ErrAmbiguous, power.ErrAuth, power.ErrCapacity} {
			n = 0
			if err := insist(t.Context(), func() error { n++; return final }); !errors.Is(err, final) || n != 1 {
				t.Errorf("%v was asked for %d times", final, n)
			}
		}

		ended, end := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, end)
		if err := insist(ended, func() error { return put }); !errors.Is(err, power.ErrRefused) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestLoan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fetches atomic.Int32
		l := NewLoan(func(ctx context.Context) (int32, time.Time, error) {
			n := fetches.Add(1)
			select {
			case <-time.After(time.Second):
				return n, time.Now().Add(time.Hour), nil
			case <-ctx.Done():
				return 0, time.Time{}, ctx.Err()
			}
		})
		get := func(what string, want int32) {
			t.Helper()
			if n, err := l.Get(t.Context()); n != want || err != nil {
				t.Errorf("%s: loan %d, %v, want %d", what, n, err, want)
			}
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { get("ten at once", 1) })
		}
		wg.Wait()
		time.Sleep(58 * time.Minute)
		get("before its end", 1)
		time.Sleep(90 * time.Second)
		get("within the margin", 2)
		l.Return(1)
		get("after an older one was refused", 2)
		l.Return(2)
		get("after it was refused", 3)

		l.Return(3)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wg.Go(func() { get("the patient one", 4) })
		synctest.Wait() // it is fetching
		if _, err := l.Get(ctx); !errors.Is(err, power.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient one: %v", err)
		}
		wg.Wait()
	})
}
