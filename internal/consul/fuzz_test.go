package consul

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// Whatever is in the store, it is a valid intent that survives being written
// back, or ErrCorrupt.
func FuzzIntent(f *testing.F) {
	c := &Client{addr: "127.0.0.1:8500", prefix: DefaultPrefix}
	p := c.Pool("h100")
	f.Add([]byte(`{"verb":"soft-off","why":"surplus","at":"2026-03-29T01:59:59Z","gen":4711}`))
	f.Add([]byte(`{"verb":"drain","why":"","at":"2026-03-29T01:59:59.5+02:00","gen":1,"settled_at":"2026-03-29T02:00:01Z","err":"no","ambiguous":true}`))
	f.Add([]byte(`{"verb":"explode"}`))
	f.Add([]byte(`{"at":"0001-01-01T00:00:00Z"}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, value []byte) {
		in, err := p.intent(&api.KVPair{Key: "gpupool/v1/pools/h100/intents/gpu1", Value: value, ModifyIndex: 7}, "gpu1")
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%q: %v", value, err)
			}
			return
		}
		again, err := json.Marshal(in)
		if err != nil {
			t.Fatalf("%q is read as %+v, which cannot be written: %v", value, in, err)
		}
		back, err := p.intent(&api.KVPair{Key: "gpupool/v1/pools/h100/intents/gpu1", Value: again, ModifyIndex: 7}, "gpu1")
		if diff := cmp.Diff(in, back); err != nil || diff != "" {
			t.Fatalf("%q: %v\n%s", value, err, diff)
		}
	})
}

// Whatever is in the store, it is a valid word that survives being written
// back, or ErrCorrupt.
func FuzzSaid(f *testing.F) {
	p := (&Client{addr: "127.0.0.1:8500", prefix: DefaultPrefix}).Pool("h100")
	pair := func(value []byte) *api.KVPair {
		return &api.KVPair{Key: "gpupool/v1/pools/h100/said/gpu1", Value: value, ModifyIndex: 7}
	}
	f.Add([]byte(`{"word":"hold","reason":"fan 3","by":"ann@desk","at":"2026-03-29T01:59:59Z"}`))
	f.Add([]byte(`{"word":"none","at":"2026-03-29T01:59:59Z"}`))
	f.Add([]byte(`{"word":"explode"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := p.said(pair(value))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%q: %v", value, err)
			}
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("%q is read as %+v, which cannot be written: %v", value, s, err)
		}
		back, err := p.said(pair(again))
		if diff := cmp.Diff(s, back); err != nil || diff != "" {
			t.Fatalf("%q: %v\n%s", value, err, diff)
		}
	})
}

// Whatever is in the store, it is durations that can be, or ErrCorrupt.
func FuzzTimes(f *testing.F) {
	p := (&Client{addr: "127.0.0.1:8500", prefix: DefaultPrefix}).Pool("h100")
	f.Add([]byte(`{"at":"2026-03-29T01:59:59Z","classes":{"":{"boot":{"last_s":[31.25],"p50_s":31.25,"p95_s":31.25},"drain":{},"stop":{}}}}`))
	f.Add([]byte(`{"classes":{"x":{"boot":{"last_s":[-1]}}}}`))
	f.Add([]byte(`{"classes":{"x":{"boot":{"last_s":[1e308]}}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, value []byte) {
		all, err := p.times(&api.KVPair{Key: "gpupool/v1/pools/h100/times", Value: value})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%q: %v", value, err)
			}
			return
		}
		for class, c := range all {
			for _, took := range []pool.Took{c.Boot, c.Drain, c.Stop} {
				if q := took.Quantile(0.95); q < 0 || q > maxTook {
					t.Errorf("%q: class %q took %s", value, class, q)
				}
			}
		}
	})
}
