package metricsapi

import (
	"errors"
	"math"
	"testing"

	"github.com/gpupool/gpupool/internal/queue"
)

// Whatever is answered is a count or an error of a class.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"n": 5}`), "n")
	f.Add([]byte(`{"a": [{"b": "1.5"}]}`), "a.#.b")
	f.Add([]byte(`[[[[`), "@this|@pretty|@reverse")
	f.Add([]byte(`{"n": -1e400}`), "n")
	f.Fuzz(func(t *testing.T, body []byte, path string) {
		if path == "" || len(path) > 200 || len(body) > 1<<16 {
			return
		}
		r, err := Config{Waiting: path, Running: path, Oldest: path}.read(body)
		if err != nil {
			if !errors.Is(err, queue.ErrInvalid) && !errors.Is(err, queue.ErrMissing) {
				t.Errorf("no class: %v", err)
			}
			return
		}
		if math.IsNaN(r.Waiting) || math.IsInf(r.Waiting, 0) || r.Waiting < 0 || *r.Running != r.Waiting {
			t.Errorf("%q at %q is %v", body, path, r)
		}
	})
}
