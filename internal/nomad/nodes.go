package nomad

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// Nodes reads the nodes of the given names and the work on them. A name that
// Nomad does not know is pool.NodeAbsent in the result.
//
// A host that was installed anew leaves its old node behind for a day. Of
// several nodes of one name, the newest that is not down is taken. If two are
// alive, two machines have one name, and nobody knows which of them a power
// command would hit: that name is pool.NodeUnknown until one is gone.
func (c *Client) Nodes(ctx context.Context, spec PoolSpec, names []string) (map[string]pool.Node, error) {
	stubs, err := c.nodesNamed(ctx, names)
	if err != nil {
		return nil, err
	}
	// After the nodes: see the package comment.
	allocs, err := c.allocsOn(ctx, names)
	if err != nil {
		return nil, err
	}

	byName := make(map[string][]*api.NodeListStub, len(names))
	for _, n := range stubs {
		byName[n.Name] = append(byName[n.Name], n)
	}
	work := workByNode(allocs, parseDevice(spec.Device))
	nodes := make(map[string]pool.Node, len(names))
	for _, name := range names {
		stub, problem := choose(byName[name])
		c.say(name, problem)
		switch {
		case problem != "" && stub == nil:
			nodes[name] = pool.Node{Status: pool.NodeUnknown, Problem: problem}
		case stub == nil:
			nodes[name] = pool.Node{Status: pool.NodeAbsent}
		case stub.NodePool != spec.nodePool():
			// No job of the pool can run there: powering it on would help
			// nobody, and what runs there is not ours to judge.
			nodes[name] = pool.Node{Status: pool.NodeUnknown, Problem: fmt.Sprintf(
				"its Nomad node %.8s is in node pool %q, not %q: set node_pool in its client's configuration, or in pools.hcl", stub.ID, stub.NodePool, spec.nodePool())}
		default:
			nodes[name] = nodeOf(stub, spec, work[stub.ID])
		}
	}
	return nodes, nil
}

// choose takes the node that a name stands for, nil if none does, and says
// what an operator should know.
func choose(stubs []*api.NodeListStub) (node *api.NodeListStub, problem string) {
	stubs = slices.SortedFunc(slices.Values(stubs), func(a, b *api.NodeListStub) int {
		return cmp.Or(cmp.Compare(b.CreateIndex, a.CreateIndex), cmp.Compare(a.ID, b.ID))
	})
	var alive []*api.NodeListStub
	for _, n := range stubs {
		if status(n.Status) != pool.NodeDown {
			alive = append(alive, n)
		}
	}
	switch {
	case len(stubs) == 0:
		return nil, ""
	case len(alive) > 1:
		return nil, fmt.Sprintf("nodes %s and %s are both alive: give each machine a name of its own", alive[0].ID, alive[1].ID)
	case len(alive) == 1:
		node = alive[0]
	default:
		node = stubs[0]
	}
	if len(stubs) > 1 {
		problem = fmt.Sprintf("%d nodes have this name, of which %s is taken: purge the others with `nomad system gc` or the node purge API", len(stubs), node.ID)
	}
	return node, problem
}

// say logs what is wrong with the nodes of a name, when it begins.
func (c *Client) say(name, problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said[name] == problem {
		return
	}
	if problem == "" {
		delete(c.said, name)
		return
	}
	c.said[name] = problem
	c.log.Warn("several Nomad nodes have one name", "node", name, "problem", problem)
}

func nodeOf(stub *api.NodeListStub, spec PoolSpec, work []pool.Alloc) pool.Node {
	return pool.Node{
		ID:       stub.ID,
		Status:   status(stub.Status),
		Index:    stub.ModifyIndex,
		Eligible: stub.SchedulingEligibility == api.NodeSchedulingEligible,
		Draining: stub.Drain,
		Mark:     markOf(stub.LastDrain, spec.Name),
		GPUs:     healthyGPUs(stub.NodeResources, parseDevice(spec.Device)),
		Work:     work,
	}
}

func status(s string) pool.NodeStatus {
	switch s {
	case api.NodeStatusInit:
		return pool.NodeInit
	case api.NodeStatusReady:
		return pool.NodeReady
	case api.NodeStatusDown, api.NodeStatusDisconnected:
		return pool.NodeDown
	}
	return pool.NodeUnknown
}

// The keys of the metadata that a drain of ours leaves with its node, and the
// values of metaState.
const (
	metaState = "gpupool"
	metaPool  = "gpupool_pool"
	metaWhy   = "gpupool_why"

	stateDrained  = "drained"
	stateReleased = "released"
)

// markOf reads whose hand was on a node last.
func markOf(last *api.DrainMetadata, poolName string) pool.Mark {
	switch {
	case last == nil, selfDrained(last):
		return pool.MarkNone
	case last.Meta[metaPool] != poolName:
		return pool.MarkForeign
	case last.Meta[metaState] == stateDrained:
		return pool.MarkOurs
	case last.Meta[metaState] == stateReleased:
		return pool.MarkReleased
	}
	return pool.MarkForeign
}

// selfDrained reports whether a client drained its own node because it was
// told to stop, which it does where drain_on_shutdown is set, and which hides
// the drain before. That is nobody's hand: the host went down. (The metadata is
// what Nomad's client/drain.go writes.)
func selfDrained(last *api.DrainMetadata) bool {
	return len(last.Meta) == 1 && last.Meta["message"] == "shutting down"
}

// workByNode sorts the allocations that a node's power keeps alive by the ID
// of their node: those that are not terminal, whatever Nomad wants of them,
// and that are not there on every node alike. An allocation on a node that was
// cut off counts too, since it may well run.
func workByNode(allocs []*api.AllocationListStub, gpu device) map[string][]pool.Alloc {
	work := make(map[string][]pool.Alloc)
	for _, a := range allocs {
		if terminal(a) || everywhere(a) {
			continue
		}
		work[a.NodeID] = append(work[a.NodeID], pool.Alloc{
			ID:    a.ID,
			Job:   a.JobID,
			Type:  a.JobType,
			GPUs:  heldGPUs(a.AllocatedResources, gpu),
			Since: placed(a),
		})
	}
	for _, list := range work {
		slices.SortFunc(list, func(a, b pool.Alloc) int { return cmp.Compare(a.ID, b.ID) })
	}
	return work
}

// placed is when an allocation was placed; zero if that is not known.
func placed(a *api.AllocationListStub) time.Time {
	if a.CreateTime <= 0 {
		return time.Time{}
	}
	return time.Unix(0, a.CreateTime)
}

// terminal reports whether a client is done with an allocation.
func terminal(a *api.AllocationListStub) bool {
	switch a.ClientStatus {
	case api.AllocClientStatusComplete, api.AllocClientStatusFailed, api.AllocClientStatusLost:
		return true
	}
	return false
}

// everywhere reports whether an allocation belongs to a job that runs on every
// node, so that it is no reason to keep one on.
func everywhere(a *api.AllocationListStub) bool {
	return a.JobType == api.JobTypeSystem || a.JobType == api.JobTypeSysbatch
}

// nodesNamed lists the nodes of the given names, in any node pool: a host
// whose client is configured into the wrong one is there all the same.
func (c *Client) nodesNamed(ctx context.Context, names []string) ([]*api.NodeListStub, error) {
	return named(names, "Name", func(filter string) ([]*api.NodeListStub, error) {
		return c.listNodes(ctx, filter)
	})
}

// nodesIn lists the nodes of a node pool.
func (c *Client) nodesIn(ctx context.Context, nodePool string) ([]*api.NodeListStub, error) {
	return c.listNodes(ctx, fmt.Sprintf("NodePool == %q", nodePool))
}

func (c *Client) listNodes(ctx context.Context, filter string) ([]*api.NodeListStub, error) {
	q := api.QueryOptions{Filter: filter, Params: map[string]string{"resources": "true"}}
	return pages(ctx, c, "list nodes", q, c.api.Nodes().List)
}

// allocsOn lists the allocations on the nodes of the given names that are not
// terminal, in all namespaces.
func (c *Client) allocsOn(ctx context.Context, names []string) ([]*api.AllocationListStub, error) {
	return named(names, "NodeName", func(filter string) ([]*api.AllocationListStub, error) {
		q := api.QueryOptions{
			Namespace: api.AllNamespacesNamespace,
			Filter:    filter + ` and ClientStatus != "complete" and ClientStatus != "failed" and ClientStatus != "lost"`,
			Params:    map[string]string{"resources": "true"},
		}
		return pages(ctx, c, "list allocations", q, c.api.Allocations().List)
	})
}

// namesPerFilter bounds the length of one filter, which travels in the URL.
const namesPerFilter = 50

// named reads what concerns the given names in as few requests as filters of
// moderate length allow.
func named[T any](names []string, field string, list func(filter string) ([]T, error)) ([]T, error) {
	var all []T
	for chunk := range slices.Chunk(names, namesPerFilter) {
		quoted := make([]string, len(chunk))
		for i, name := range chunk {
			quoted[i] = regexp.QuoteMeta(name)
		}
		some, err := list(fmt.Sprintf("%s matches %q", field, "^("+strings.Join(quoted, "|")+")$"))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}
