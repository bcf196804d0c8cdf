package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// Words reads what operators said about hosts of the pool, by host ID, with one
// consistent read. A record that cannot be read is a [pool.WordHold] that says
// so: somebody said something, and leaving the host as it is goes against the
// least of what it may have been.
func (p *Pool) Words(ctx context.Context) (map[string]pool.Said, error) {
	pairs, prefix, err := p.list(ctx, "said")
	if err != nil {
		return nil, err
	}
	said := make(map[string]pool.Said, len(pairs))
	for _, pair := range pairs {
		host := strings.TrimPrefix(pair.Key, prefix)
		if !segmentRule.MatchString(host) {
			continue // the folder itself, or of no host that there can be
		}
		s, err := p.said(pair)
		if err != nil {
			s = pool.Said{Word: pool.WordHold, Reason: err.Error(), Rev: pair.ModifyIndex}
		}
		said[host] = s
	}
	return said, nil
}

func (p *Pool) said(pair *api.KVPair) (pool.Said, error) {
	var s pool.Said
	if err := p.c.decode(pair, maxRecord, &s); err != nil {
		return pool.Said{}, err
	}
	if err := validSaid(s); err != nil {
		return pool.Said{}, p.c.corrupt(pair.Key, err)
	}
	s.Rev = pair.ModifyIndex
	return s, nil
}

func validSaid(s pool.Said) error {
	switch {
	case s.Word == pool.WordNone:
		return errors.New("no word")
	case s.At.IsZero():
		return errors.New("no time")
	}
	return nil
}

// Say records an operator's word on a host if its revision is still s.Rev
// (zero: if there is none yet), and returns it with its new revision.
// [pool.WordNone] takes the word back by removing the record. The error is
// ErrStale where somebody else said something first. It needs no lease: the
// actor of the pool hears it at its next tick.
func (p *Pool) Say(ctx context.Context, host string, s pool.Said) (pool.Said, error) {
	key, err := p.key("said", host)
	if err != nil {
		return pool.Said{}, err
	}
	if s.Word == pool.WordNone {
		return pool.Said{}, p.unsay(ctx, key, s.Rev)
	}
	if err := validSaid(s); err != nil {
		return pool.Said{}, fmt.Errorf("write %s: %w", key, err)
	}
	s.Reason, s.By = clip(s.Reason, maxText), clip(s.By, maxText)
	value, err := json.Marshal(s)
	if err != nil {
		return pool.Said{}, fmt.Errorf("write %s: %w", key, err)
	}
	pairs, refused, err := p.c.txn(ctx, key, cas(key, value, s.Rev))
	switch {
	case err != nil:
		return pool.Said{}, err
	case refused != nil:
		return pool.Said{}, p.stale(key, s.Rev, refused)
	}
	s.Rev = pairs[0].ModifyIndex
	return s, nil
}

// unsay removes a word if its revision is still rev.
func (p *Pool) unsay(ctx context.Context, key string, rev uint64) error {
	if rev == 0 {
		return nil
	}
	reqCtx, cancel := p.c.bounded(ctx)
	defer cancel()
	gone, _, err := p.c.api.KV().DeleteCAS(&api.KVPair{Key: key, ModifyIndex: rev}, (&api.WriteOptions{}).WithContext(reqCtx))
	switch {
	case err != nil:
		return p.c.failed(ctx, "remove", key, err)
	case !gone:
		return p.stale(key, rev, &refusal{what: "it has another revision by now"})
	}
	return nil
}
