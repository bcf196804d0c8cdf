package consul

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
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
