package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"
)

// Status is the last report of the loop that acts on a pool, for people and
// for `gpupool status`. Nothing is decided from it.
type Status struct {
	Pool       string    `json:"pool"`
	Want       int       `json:"want"`       // hosts
	At         time.Time `json:"at"`         // when the sweep that it tells of ended
	Generation uint64    `json:"generation"` // of the lease it was written under
	Holder     string    `json:"holder"`     // the process that holds the lease
	// Self is the host that the holder runs on, which is never taken out of
	// service; empty if it is none of the pool's.
	Self string `json:"self,omitempty"`
	// Note is why the wanted count is not met, or nothing is decided at the
	// moment. At most 1 kB is kept.
	Note  string       `json:"note,omitempty"`
	Hosts []HostStatus `json:"hosts"`
	// Watts is the estimated draw of all hosts, by the figures of their classes.
	Watts float64 `json:"watts,omitempty"`
	// Omitted is the number of hosts that found no room in the record.
	Omitted int `json:"omitted,omitempty"`
}

// HostStatus is one host of a Status.
type HostStatus struct {
	ID       string    `json:"id"`
	Power    string    `json:"power"`
	Phase    string    `json:"phase"`
	GPUs     int       `json:"gpus"`
	GPUsBusy int       `json:"gpus_busy"`
	Why      string    `json:"why,omitempty"` // one sentence; at most 200 bytes are kept
	Since    time.Time `json:"since,omitzero"`
	Class    string    `json:"class,omitempty"`
	Watts    float64   `json:"watts,omitempty"` // estimated draw, by the figures of its class
}

// maxWhy bounds the reason of one host in a status, in bytes.
const maxWhy = 200

// PutStatus replaces the pool's status, under the lease. Its generation and
// holder are the lease's. A pool too large for one record (some 500 hosts)
// keeps its first hosts and says how many are omitted.
func (p *Pool) PutStatus(ctx context.Context, l *Lease, s Status) error {
	key, err := p.key("status")
	if err != nil {
		return err
	}
	session, gen := l.current()
	if gen == 0 {
		return fmt.Errorf("status of pool %s: %w", p.name, ErrFenced)
	}
	s.Pool, s.Generation, s.Holder, s.Note = p.name, gen, l.cfg.Holder, clip(s.Note, maxText)
	value, err := encodeStatus(s, maxStatus)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	_, refused, err := p.fenced(ctx, session, key, &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: value})
	if err == nil && refused != nil {
		err = fmt.Errorf("write %s in Consul at %s: %s", key, p.c.addr, refused.what)
	}
	return err
}

// Status reads the pool's last status. The error is ErrNotFound where none was
// ever written.
func (p *Pool) Status(ctx context.Context) (Status, error) {
	key, err := p.key("status")
	if err != nil {
		return Status{}, err
	}
	pair, err := p.c.get(ctx, key)
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := p.c.decode(pair, maxStatus, &s); err != nil {
		return Status{}, err
	}
	return s, nil
}

// encodeStatus renders a status in at most limit bytes.
func encodeStatus(s Status, limit int) ([]byte, error) {
	hosts := make([]HostStatus, len(s.Hosts))
	for i, h := range s.Hosts {
		h.Why = clip(h.Why, maxWhy)
		hosts[i] = h
	}
	all := len(hosts) + s.Omitted
	for {
		s.Hosts, s.Omitted = hosts, all-len(hosts)
		value, err := json.Marshal(s)
		if err != nil || len(value) <= limit {
			return value, err
		}
		if len(hosts) == 0 {
			return nil, fmt.Errorf("status without hosts takes %d bytes, want at most %d", len(value), limit)
		}
		// In proportion to the excess, and at least one host a round.
		hosts = hosts[:min(len(hosts)-1, len(hosts)*limit/len(value))]
	}
}
