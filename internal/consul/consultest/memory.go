package consultest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
)

// Memory is a pool's records in memory, for tests of what stands on them. It
// passes the same suite as the records in Consul. The zero value is ready.
type Memory struct {
	mu      sync.Mutex
	rev     uint64
	gen     uint64
	want    *consul.Want
	intents map[string]pool.Intent
	words   map[string]pool.Said
	times   map[string]pool.Times
}

// Lease grants the pool's lease until the time given, and fences every lease
// granted before.
func (m *Memory) Lease(until time.Time) *consul.Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rev++
	m.gen = m.rev
	return consul.Granted(consul.Hold{Gen: m.gen, Until: until})
}

// Fence takes the lease from whoever holds it.
func (m *Memory) Fence() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen = 0
}

// Want is the same as [consul.Pool.Want].
func (m *Memory) Want(ctx context.Context) (consul.Want, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return consul.Want{}, err
	}
	if m.want == nil {
		return consul.Want{}, fmt.Errorf("want: %w", consul.ErrNotFound)
	}
	return *m.want, nil
}

// SetWant is the same as [consul.Pool.SetWant].
func (m *Memory) SetWant(ctx context.Context, w consul.Want) (consul.Want, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return consul.Want{}, err
	}
	if w.Count < 0 || w.At.IsZero() {
		return consul.Want{}, fmt.Errorf("want: count %d at %v is not valid", w.Count, w.At)
	}
	var rev uint64
	if m.want != nil {
		rev = m.want.Rev
	}
	if w.Rev != rev {
		return consul.Want{}, fmt.Errorf("want over revision %d, not %d: %w", w.Rev, rev, consul.ErrStale)
	}
	stored, err := reread(w)
	if err != nil {
		return consul.Want{}, err
	}
	m.rev++
	stored.Rev, w.Rev = m.rev, m.rev
	m.want = &stored
	return w, nil
}

// Intents is the same as [consul.Pool.Intents].
func (m *Memory) Intents(ctx context.Context) (map[string]pool.Intent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	intents := make(map[string]pool.Intent, len(m.intents))
	maps.Copy(intents, m.intents)
	return intents, nil
}

// Intend is the same as [consul.Pool.Intend].
func (m *Memory) Intend(ctx context.Context, l *consul.Lease, host string, in pool.Intent) (pool.Intent, error) {
	if in.At.IsZero() {
		return pool.Intent{}, fmt.Errorf("intent for host %s: no time", host)
	}
	return m.put(ctx, l, host, in, func(gen uint64) bool { return in.Gen == gen })
}

// Settle is the same as [consul.Pool.Settle].
func (m *Memory) Settle(ctx context.Context, l *consul.Lease, host string, in pool.Intent) (pool.Intent, error) {
	if in.SettledAt.IsZero() {
		return pool.Intent{}, fmt.Errorf("outcome for host %s: no time", host)
	}
	return m.put(ctx, l, host, in, func(uint64) bool { return true })
}

func (m *Memory) put(ctx context.Context, l *consul.Lease, host string, in pool.Intent, ok func(gen uint64) bool) (pool.Intent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return pool.Intent{}, err
	}
	hold, _ := l.Held(time.Time{})
	if hold.Gen == 0 || hold.Gen != m.gen || !ok(hold.Gen) {
		return pool.Intent{}, fmt.Errorf("host %s in generation %d: %w", host, in.Gen, consul.ErrFenced)
	}
	if rev := m.intents[host].Rev; in.Rev != rev {
		return pool.Intent{}, fmt.Errorf("host %s over revision %d, not %d: %w", host, in.Rev, rev, consul.ErrStale)
	}
	stored, err := reread(in)
	if err != nil {
		return pool.Intent{}, err
	}
	m.rev++
	stored.Rev, in.Rev = m.rev, m.rev
	if m.intents == nil {
		m.intents = make(map[string]pool.Intent)
	}
	m.intents[host] = stored
	return in, nil
}

// Words is the same as [consul.Pool.Words].
func (m *Memory) Words(ctx context.Context) (map[string]pool.Said, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.words), ctx.Err()
}

// Say is the same as [consul.Pool.Say].
func (m *Memory) Say(ctx context.Context, host string, s pool.Said) (pool.Said, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return pool.Said{}, ctx.Err()
	case s.Word != pool.WordNone && s.At.IsZero():
		return pool.Said{}, fmt.Errorf("word on host %s: no time", host)
	case s.Rev != m.words[host].Rev:
		return pool.Said{}, fmt.Errorf("word on host %s over revision %d, not %d: %w", host, s.Rev, m.words[host].Rev, consul.ErrStale)
	case s.Word == pool.WordNone:
		delete(m.words, host)
		return pool.Said{}, nil
	}
	stored, err := reread(s)
	if err != nil {
		return pool.Said{}, err
	}
	m.rev++
	stored.Rev, s.Rev = m.rev, m.rev
	if m.words == nil {
		m.words = make(map[string]pool.Said)
	}
	m.words[host] = stored
	return s, nil
}

// Times is the same as [consul.Pool.Times].
func (m *Memory) Times(ctx context.Context) (map[string]pool.Times, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.times), ctx.Err()
}

// PutTimes is the same as [consul.Pool.PutTimes].
func (m *Memory) PutTimes(ctx context.Context, l *consul.Lease, classes map[string]pool.Times) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if hold, _ := l.Held(time.Time{}); hold.Gen == 0 || hold.Gen != m.gen {
		return fmt.Errorf("times: %w", consul.ErrFenced)
	}
	stored, err := reread(classes)
	if err != nil {
		return err
	}
	m.times = stored
	return nil
}

// reread is what a record is after it was written and read again.
func reread[T any](v T) (T, error) {
	var back T
	data, err := json.Marshal(v)
	if err != nil {
		return back, err
	}
	return back, json.Unmarshal(data, &back)
}
