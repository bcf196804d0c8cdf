package instance

import (
	"cmp"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/gpupool/gpupool/internal/fleet"
)

// learned are the last warm-ups of each kind of instance.
type learned map[warmUpKey][]time.Duration

type warmUpKey struct {
	model, gpu string
	from       fleet.InstanceState
}

// keep is how many warm-ups of a kind are remembered.
const keep = 20

func (l learned) add(k warmUpKey, d time.Duration) {
	if k.model == "" || len(l[k]) == 0 && len(l) >= fleet.MaxWarmUps {
		return
	}
	l[k] = append(l[k], d)
	if n := len(l[k]); n > keep {
		l[k] = slices.Clone(l[k][n-keep:])
	}
}

func (l learned) median(k warmUpKey) (time.Duration, bool) {
	if len(l[k]) == 0 {
		return 0, false
	}
	return quantile(l[k], 0.5), true
}

// quantile is the smallest of the durations that a share q of them does not
// exceed.
func quantile(list []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

func (l learned) list() []fleet.WarmUp {
	keys := slices.SortedFunc(maps.Keys(l), func(a, b warmUpKey) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.gpu, b.gpu), cmp.Compare(a.from, b.from))
	})
	var out []fleet.WarmUp
	for _, k := range keys {
		out = append(out, fleet.WarmUp{
			Model: k.model, GPU: k.gpu, From: k.from, Count: len(l[k]),
			Median: seconds(quantile(l[k], 0.5)), P95: seconds(quantile(l[k], 0.95)),
		})
	}
	return out
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}
