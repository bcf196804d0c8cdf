package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// times is the record of how long the hosts of a pool took.
type times struct {
	At      time.Time             `json:"at"`      // when the last one was learned
	Classes map[string]classTimes `json:"classes"` // by class; "" for a pool of one kind
}

type classTimes struct {
	Boot  took `json:"boot"`
	Drain took `json:"drain"`
	Stop  took `json:"stop"`
}

// took has two quantiles beside the durations, for readers that are not
// gpupool. They are not read back.
type took struct {
	Last []float64 `json:"last_s,omitempty"`
	P50  float64   `json:"p50_s,omitempty"`
	P95  float64   `json:"p95_s,omitempty"`
}

// tookOf rounds durations to the millisecond.
func tookOf(t pool.Took) took {
	last := make([]float64, len(t.Last))
	for i, s := range t.Last {
		last[i] = max(math.Round(s*1000), 1) / 1000
	}
	t = pool.Took{Last: last}
	return took{Last: last, P50: t.Quantile(0.5).Seconds(), P95: t.Quantile(0.95).Seconds()}
}

// Bounds of the record of times.
const (
	maxTimes   = 256 << 10          // bytes
	maxClasses = 256                // that are kept
	maxTook    = 7 * 24 * time.Hour // longest that anything takes
)

// Times reads how long hosts of each class took, as far as it was learned.
// There are none before anything was. What is corrupt is an error that wraps
// ErrCorrupt; nothing but estimates is lost with it.
func (p *Pool) Times(ctx context.Context) (map[string]pool.Times, error) {
	key, err := p.key("times")
	if err != nil {
		return nil, err
	}
	pair, err := p.c.get(ctx, key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return p.times(pair)
}

func (p *Pool) times(pair *api.KVPair) (map[string]pool.Times, error) {
	var r times
	if err := p.c.decode(pair, maxTimes, &r); err != nil {
		return nil, err
	}
	if err := r.validate(); err != nil {
		return nil, p.c.corrupt(pair.Key, err)
	}
	all := make(map[string]pool.Times, len(r.Classes))
	for class, t := range r.Classes {
		all[class] = pool.Times{Boot: pool.Took{Last: t.Boot.Last}, Drain: pool.Took{Last: t.Drain.Last}, Stop: pool.Took{Last: t.Stop.Last}}
	}
	return all, nil
}

func (r times) validate() error {
	if len(r.Classes) > maxClasses {
		return fmt.Errorf("%d classes, want at most %d", len(r.Classes), maxClasses)
	}
	for class, t := range r.Classes {
		if class != "" && !segmentRule.MatchString(class) {
			return fmt.Errorf("class %.80q is not a name", class)
		}
		for _, took := range []took{t.Boot, t.Drain, t.Stop} {
			if len(took.Last) > pool.MaxTook {
				return fmt.Errorf("class %q: %d durations, want at most %d", class, len(took.Last), pool.MaxTook)
			}
			for _, s := range took.Last {
				if !(s > 0 && s <= maxTook.Seconds()) {
					return fmt.Errorf("class %q: a duration of %g s, want more than 0 and at most %g", class, s, maxTook.Seconds())
				}
			}
		}
	}
	return nil
}

// PutTimes replaces what was learned, under the lease. Durations are kept to
// the millisecond.
func (p *Pool) PutTimes(ctx context.Context, l *Lease, classes map[string]pool.Times) error {
	key, err := p.key("times")
	if err != nil {
		return err
	}
	session, gen := l.current()
	if gen == 0 {
		return fmt.Errorf("times of pool %s: %w", p.name, ErrFenced)
	}
	r := times{At: time.Now().UTC(), Classes: make(map[string]classTimes, len(classes))}
	for class, t := range classes {
		r.Classes[class] = classTimes{Boot: tookOf(t.Boot), Drain: tookOf(t.Drain), Stop: tookOf(t.Stop)}
	}
	if err := r.validate(); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	_, refused, err := p.fenced(ctx, session, key, &api.KVTxnOp{Verb: api.KVSet, Key: key, Value: value})
	if err == nil && refused != nil {
		err = fmt.Errorf("write %s in Consul at %s: %s", key, p.c.addr, refused.what)
	}
	return err
}
