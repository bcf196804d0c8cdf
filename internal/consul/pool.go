package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// Pool is one pool's records, below <prefix>pools/<name>/. It is safe for
// concurrent use.
type Pool struct {
	c    *Client
	name string
}

// Pool names a pool's records. It does no I/O. The name, and the ID of each
// host, must be a plain key segment (letters, digits, '.', '_', '~', '-'); all
// methods answer an error if it is not.
func (c *Client) Pool(name string) *Pool { return &Pool{c: c, name: name} }

// Name is the pool's name.
func (p *Pool) Name() string { return p.name }

// Address is where the pool's records are read and written.
func (p *Pool) Address() string { return p.c.addr }

var segmentRule = regexp.MustCompile(`^[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}$`)

// key is the KV key of a record of the pool.
func (p *Pool) key(parts ...string) (string, error) {
	if !segmentRule.MatchString(p.name) {
		return "", fmt.Errorf("pool name %q: want 1 to 128 letters, digits, '.', '_', '~' or '-', not starting with '.'", p.name)
	}
	for _, s := range parts {
		if !segmentRule.MatchString(s) {
			return "", fmt.Errorf("host ID %q of pool %q: want 1 to 128 letters, digits, '.', '_', '~' or '-', not starting with '.'", s, p.name)
		}
	}
	return p.c.prefix + "pools/" + p.name + "/" + strings.Join(parts, "/"), nil
}

// Want is how many hosts the pool should have, and who wants that.
type Want struct {
	Count  int       `json:"count"`
	Reason string    `json:"reason"`       // one sentence; at most 1 kB is kept
	By     string    `json:"by,omitempty"` // the process or the person that wrote it
	At     time.Time `json:"at"`

	// Rev is the store's revision of this record, for check-and-set. Zero
	// means that there is no record yet.
	Rev uint64 `json:"-"`
}

func (w Want) validate() error {
	switch {
	case w.Count < 0:
		return fmt.Errorf("count is %d, want 0 or more", w.Count)
	case w.At.IsZero():
		return errors.New("no time")
	}
	return nil
}

// Want reads the wanted count. The error is ErrNotFound where none was ever
// written.
func (p *Pool) Want(ctx context.Context) (Want, error) {
	key, err := p.key("want")
	if err != nil {
		return Want{}, err
	}
	pair, err := p.c.get(ctx, key)
	if err != nil {
		return Want{}, err
	}
	var w Want
	if err := p.c.decode(pair, maxRecord, &w); err != nil {
		return Want{}, err
	}
	if err := w.validate(); err != nil {
		return Want{}, p.c.corrupt(key, err)
	}
	w.Rev = pair.ModifyIndex
	return w, nil
}

// SetWant writes the wanted count if its revision is still w.Rev (zero: if
// there is none yet), and returns it with its new revision. The error is
// ErrStale where somebody wrote first. It needs no lease: whoever may want
// something may write it, and the actor of the pool follows.
func (p *Pool) SetWant(ctx context.Context, w Want) (Want, error) {
	key, err := p.key("want")
	if err != nil {
		return Want{}, err
	}
	if err := w.validate(); err != nil {
		return Want{}, fmt.Errorf("write %s: %w", key, err)
	}
	w.Reason, w.By = clip(w.Reason, maxText), clip(w.By, maxText)
	value, err := json.Marshal(w)
	if err != nil {
		return Want{}, fmt.Errorf("write %s: %w", key, err)
	}
	pairs, refused, err := p.c.txn(ctx, key, cas(key, value, w.Rev))
	switch {
	case err != nil:
		return Want{}, err
	case refused != nil:
		return Want{}, p.stale(key, w.Rev, refused)
	}
	w.Rev = pairs[0].ModifyIndex
	return w, nil
}

// Intents reads the intents of all hosts of the pool that have one, by host
// ID, with one consistent read. One corrupt record fails them all: a pool
// whose memory is damaged must not be acted on.
func (p *Pool) Intents(ctx context.Context) (map[string]pool.Intent, error) {
	pairs, prefix, err := p.list(ctx, "intents")
	if err != nil {
		return nil, err
	}
	intents := make(map[string]pool.Intent, len(pairs))
	var errs []error
	for _, pair := range pairs {
		host := strings.TrimPrefix(pair.Key, prefix)
		if host == "" {
			continue // the folder itself, as Consul's UI makes it
		}
		in, err := p.intent(pair, host)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		intents[host] = in
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return intents, nil
}

// list reads the records of a folder of the pool with one consistent read. Each
// key begins with the prefix.
func (p *Pool) list(ctx context.Context, folder string) (pairs api.KVPairs, prefix string, err error) {
	prefix, err = p.key(folder)
	if err != nil {
		return nil, "", err
	}
	prefix += "/"
	reqCtx, cancel := p.c.bounded(ctx)
	defer cancel()
	pairs, _, err = p.c.api.KV().List(prefix, consistent(reqCtx))
	if err != nil {
		return nil, "", p.c.failed(ctx, "list", prefix, err)
	}
	return pairs, prefix, nil
}

func (p *Pool) intent(pair *api.KVPair, host string) (pool.Intent, error) {
	var in pool.Intent
	if !segmentRule.MatchString(host) {
		return in, p.c.corrupt(pair.Key, errors.New("the key ends in no host ID"))
	}
	if err := p.c.decode(pair, maxRecord, &in); err != nil {
		return in, err
	}
	if in.At.IsZero() {
		return in, p.c.corrupt(pair.Key, errors.New("no time"))
	}
	in.Rev = pair.ModifyIndex
	return in, nil
}

// Intend records what is about to be done to a host, and returns the record
// with its new revision. Only after that may it be done.
//
// This is the fence between two actors. One Consul transaction checks that
// the lease's session holds the pool's lock, and writes the record if its
// revision is still in.Rev. An actor whose lease is gone, or whose lease is
// not of the generation in.Gen that the decision was made under, gets
// ErrFenced; one that decided on an older record gets ErrStale. Neither may
// act. After any other error the record may or may not have been written, so
// the actor may not act either; it finds out by reading again.
func (p *Pool) Intend(ctx context.Context, l *Lease, host string, in pool.Intent) (pool.Intent, error) {
	if in.At.IsZero() {
		return pool.Intent{}, fmt.Errorf("intent for host %s of pool %s: no time", host, p.name)
	}
	session, gen := l.current()
	if in.Gen == 0 || in.Gen != gen {
		return pool.Intent{}, fmt.Errorf("intent for host %s of pool %s: %w in generation %d (now %d)", host, p.name, ErrFenced, in.Gen, gen)
	}
	return p.put(ctx, session, host, in)
}

// Settle records the outcome of an intent, with the same transaction as
// Intend and the same errors. The lease may have been lost and won again since
// the intent was recorded: the revision proves that nobody else touched it.
func (p *Pool) Settle(ctx context.Context, l *Lease, host string, in pool.Intent) (pool.Intent, error) {
	if in.SettledAt.IsZero() {
		return pool.Intent{}, fmt.Errorf("outcome for host %s of pool %s: no time", host, p.name)
	}
	session, gen := l.current()
	if gen == 0 {
		return pool.Intent{}, fmt.Errorf("outcome for host %s of pool %s: %w", host, p.name, ErrFenced)
	}
	return p.put(ctx, session, host, in)
}

// put writes an intent under the session of a lease.
func (p *Pool) put(ctx context.Context, session, host string, in pool.Intent) (pool.Intent, error) {
	key, err := p.key("intents", host)
	if err != nil {
		return pool.Intent{}, err
	}
	in.Why, in.Err = clip(in.Why, maxText), clip(in.Err, maxText)
	value, err := json.Marshal(in)
	if err != nil {
		return pool.Intent{}, fmt.Errorf("write %s: %w", key, err)
	}
	pairs, refused, err := p.fenced(ctx, session, key, cas(key, value, in.Rev))
	switch {
	case err != nil:
		return pool.Intent{}, err
	case refused != nil:
		return pool.Intent{}, p.stale(key, in.Rev, refused)
	}
	in.Rev = pairs.ModifyIndex
	return in, nil
}

// fenced runs one write under the check that session holds the pool's lock.
// A session wins the lock at most once (see Lease), so the session proves the
// generation too.
func (p *Pool) fenced(ctx context.Context, session, key string, write *api.KVTxnOp) (*api.KVPair, *refusal, error) {
	lock, err := p.key("lease")
	if err != nil {
		return nil, nil, err
	}
	held := &api.KVTxnOp{Verb: api.KVCheckSession, Key: lock, Session: session}
	pairs, refused, err := p.c.txn(ctx, key, held, write)
	switch {
	case err != nil:
		return nil, nil, err
	case refused != nil && refused.op == 0:
		return nil, nil, fmt.Errorf("write %s in Consul at %s: %w: %s", key, p.c.addr, ErrFenced, refused.what)
	case refused != nil:
		return nil, refused, nil
	}
	return pairs[1], nil, nil
}

func (p *Pool) stale(key string, rev uint64, refused *refusal) error {
	return fmt.Errorf("write %s in Consul at %s over revision %d: %w: %s", key, p.c.addr, rev, ErrStale, refused.what)
}

// cas writes value if the key's revision is rev, where zero means that there
// must be no such key.
func cas(key string, value []byte, rev uint64) *api.KVTxnOp {
	return &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: value, Index: rev}
}
