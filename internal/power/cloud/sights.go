package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

// gather is how long the first read waits for others to go with it. A sweep
// starts its reads within microseconds, and a cloud answers in some 100 ms.
const gather = 10 * time.Millisecond

// errAbsent is a read of an instance that the cloud does not have.
var errAbsent = errors.New("no such instance")

// errClosed is why reads fail when nobody uses the account any more.
var errClosed = errors.New("driver is closed")

// sights reads instances, those that are asked for together with one request.
// A request begins after each read that it answers. It ends when nobody waits
// for it any more.
type sights struct {
	read func(context.Context, []string) (map[string]Instance, error)
	most int // instances in a request

	life context.Context
	end  context.CancelCauseFunc

	mu   sync.Mutex
	next *sight // that reads may still join, nil if there is none
}

// sight is one request.
type sight struct {
	ids    map[string]bool
	ctx    context.Context
	cancel context.CancelFunc
	users  int   // who wait for it
	put    error // why it was put off, nil if it was not

	done  chan struct{} // closed when what follows is set
	found map[string]Instance
	err   error
}

func newSights(read func(context.Context, []string) (map[string]Instance, error), most int) *sights {
	s := &sights{read: read, most: most}
	s.life, s.end = context.WithCancelCause(context.Background())
	return s
}

// close ends all requests.
func (s *sights) close() { s.end(errClosed) }

// get reads one instance.
func (s *sights) get(ctx context.Context, id string) (Instance, error) {
	if s.life.Err() != nil {
		return Instance{}, fmt.Errorf("%w: nothing was sent: %w", power.ErrUnreachable, errClosed)
	}
	g := s.join(id)
	defer s.quit(g)
	select {
	case <-g.done:
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock() // before quit
		if g.put != nil {
			return Instance{}, g.put
		}
		return Instance{}, fmt.Errorf("%w: no answer: %w", power.ErrUnreachable, context.Cause(ctx))
	}
	if g.err != nil {
		return Instance{}, g.err
	}
	i, ok := g.found[id]
	if !ok {
		return Instance{}, errAbsent
	}
	return i, nil
}

// join adds a read to the next request.
func (s *sights) join(id string) *sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.next
	if g == nil || len(g.ids) >= s.most {
		g = &sight{ids: make(map[string]bool), done: make(chan struct{})}
		g.ctx, g.cancel = context.WithCancel(s.life)
		s.next = g
		go s.run(g)
	}
	g.ids[id] = true
	g.users++
	return g
}

// quit ends a request that nobody waits for.
func (s *sights) quit(g *sight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.users--; g.users > 0 {
		return
	}
	g.cancel()
	if s.next == g {
		s.next = nil
	}
}

// run makes a request when it has waited for others.
func (s *sights) run(g *sight) {
	defer close(g.done)
	timer := time.NewTimer(gather)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.ctx.Done():
	}
	s.mu.Lock()
	if s.next == g {
		s.next = nil
	}
	ids := slices.Sorted(maps.Keys(g.ids))
	s.mu.Unlock()
	if g.ctx.Err() != nil {
		g.err = fmt.Errorf("%w: nothing was sent: %w", power.ErrUnreachable, context.Cause(g.ctx))
		return
	}
	defer func() {
		if p := recover(); p != nil { // in a goroutine it would end the process
			g.err = fmt.Errorf("%w: panic, which is a bug of gpupool: %v", power.ErrUnreachable, p)
		}
	}()
	g.err = insist(g.ctx, func() (err error) {
		g.found, err = s.read(g.ctx, ids)
		if put := new(Throttled); errors.As(err, &put) {
			s.mu.Lock()
			defer s.mu.Unlock()
			g.put = err
		}
		return err
	})
}
