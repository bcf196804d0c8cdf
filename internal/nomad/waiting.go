package nomad

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// Kind is one kind of hosts in a pool of several.
type Kind struct {
	Name        string
	Device      string // what its GPUs are called, as PoolSpec.Device
	GPUsPerHost int    // the most GPUs of one host; 0: not known
}

// Asks reads what waits for GPUs of the pool, as [Client.Demand] counts it, and
// which kinds of hosts it fits. What fits none is left out.
func (c *Client) Asks(ctx context.Context, spec PoolSpec, kinds []Kind) ([]pool.Ask, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	evals, err := c.blocked(ctx)
	if err != nil {
		return nil, err
	}
	waits, err := c.waits(ctx, evals)
	if err != nil {
		return nil, err
	}
	return fitting(spec, kinds, waits), nil
}

// fitting sums up what waits by what it needs.
func fitting(spec PoolSpec, kinds []Kind, waits []wait) []pool.Ask {
	type need struct {
		classes string // joined by NUL, which is in no name
		gpus    int
	}
	count := make(map[need]int)
	for _, w := range waits {
		if !w.job.admits(spec) || w.helpless() {
			continue
		}
		queued := w.instances()
		for _, a := range w.job.groups {
			n := queued[a.group]
			if n == 0 {
				continue
			}
			if classes, gpus := fit(kinds, a); len(classes) > 0 {
				count[need{strings.Join(classes, "\x00"), gpus}] += n
			}
		}
	}
	var asks []pool.Ask
	for need, n := range count {
		ask := pool.Ask{GPUs: need.gpus, Count: n}
		if classes := strings.Split(need.classes, "\x00"); len(classes) < len(kinds) {
			ask.Classes = classes
		}
		asks = append(asks, ask)
	}
	slices.SortFunc(asks, func(a, b pool.Ask) int {
		return cmp.Or(slices.Compare(a.Classes, b.Classes), cmp.Compare(a.GPUs, b.GPUs))
	})
	return asks
}

// fit lists the kinds of hosts that could have one allocation of a group,
// sorted, and how many of their GPUs it would hold.
func fit(kinds []Kind, a ask) (classes []string, gpus int) {
	for _, k := range kinds {
		o := offer{gpu: parseDevice(k.Device), perHost: k.GPUsPerHost}
		if o.gpu.model != "" {
			o.models = []string{o.gpu.model}
		}
		n, misfit, _ := o.fits(a)
		if n > 0 && misfit == "" {
			classes, gpus = append(classes, k.Name), max(gpus, n)
		}
	}
	slices.Sort(classes)
	return classes, gpus
}

// helpless reports whether more hosts would not help what waits.
func (w wait) helpless() bool {
	return w.eval.QuotaLimitReached != "" || len(w.eval.MissingNonNodeResources) > 0
}

// NodeOf is the name of the node that an allocation runs on.
func (c *Client) NodeOf(ctx context.Context, allocID string) (string, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	alloc, _, err := c.api.Allocations().Info(allocID, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return "", c.failed(ctx, "read allocation "+allocID, err)
	}
	return alloc.NodeName, nil
}
