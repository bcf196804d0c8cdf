package nomad

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/pool"
)

// Cordon makes a node ineligible for new work. What runs on it goes on. It is
// safe to repeat.
func (c *Client) Cordon(ctx context.Context, nodeID string) error {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	_, err := c.api.Nodes().ToggleEligibility(nodeID, false, (&api.WriteOptions{}).WithContext(reqCtx))
	if err != nil {
		return c.failed(ctx, "cordon node "+nodeID, err)
	}
	return nil
}

// DrainSpec says how to drain a node.
type DrainSpec struct {
	Pool string // name of the pool, for the mark
	Why  string // one sentence, for the operator who looks at the node
	// Deadline is when work that has not moved is stopped. Zero: never.
	Deadline time.Duration
}

// Drain makes a node ineligible and moves its work to other nodes, other than
// that of system jobs, and leaves our mark on it. It returns when the drain has
// begun. It is safe to repeat. The error is ErrForeign if somebody else's drain
// is going on, whose mark it would erase.
func (c *Client) Drain(ctx context.Context, nodeID string, spec DrainSpec) error {
	if spec.Pool == "" {
		return errors.New("drain without the name of a pool")
	}
	if spec.Deadline < 0 {
		return fmt.Errorf("drain of node %s with deadline %s: that would stop its work at once", nodeID, spec.Deadline)
	}
	node, err := c.node(ctx, nodeID)
	if err != nil {
		return err
	}
	if node.Drain && markOf(node.LastDrain, spec.Pool) == pool.MarkForeign {
		return fmt.Errorf("drain node %s in Nomad at %s: %w", nodeID, c.addr, ErrForeign)
	}
	return c.updateDrain(ctx, "drain node "+nodeID, nodeID, &api.DrainOptions{
		DrainSpec: &api.DrainSpec{Deadline: spec.Deadline, IgnoreSystemJobs: true},
		Meta:      map[string]string{metaState: stateDrained, metaPool: spec.Pool, metaWhy: clip(spec.Why)},
	})
}

// Enable makes a node eligible, ending a drain that is going on, and marks it
// as given back by the pool, so that an operator who makes it ineligible later
// is not taken for us. It is safe to repeat. The error is ErrForeign if
// somebody else's drain is going on.
//
// Nomad changes the metadata of a node's last drain only while a drain is
// going on, and ends the drain of an empty node within milliseconds. So the
// mark of a drain that has ended is replaced by one more drain, of the empty
// and still ineligible node, which begins with the new mark; and then that is
// ended and the node made eligible. A crash in between leaves an ineligible
// node marked as given back, which only the recorded intent tells from an
// operator's own doing: record the intent first, and repeat.
//
// The mark stays as it is where that drain could do harm, because the node is
// eligible already or has work.
func (c *Client) Enable(ctx context.Context, nodeID, poolName string) error {
	node, err := c.node(ctx, nodeID)
	if err != nil {
		return err
	}
	mark := markOf(node.LastDrain, poolName)
	if node.Drain && mark == pool.MarkForeign {
		return fmt.Errorf("enable node %s in Nomad at %s: %w", nodeID, c.addr, ErrForeign)
	}
	released := map[string]string{metaState: stateReleased, metaPool: poolName}
	if mark == pool.MarkOurs && !node.Drain && node.SchedulingEligibility != api.NodeSchedulingEligible {
		if err := c.stamp(ctx, node, released); err != nil {
			return err
		}
	}
	return c.updateDrain(ctx, "enable node "+nodeID, nodeID, &api.DrainOptions{MarkEligible: true, Meta: released})
}

// GiveBack enables a node if its last drain is the pool's own and was not given
// back yet, and reports whether it was.
func (c *Client) GiveBack(ctx context.Context, nodeID, poolName string) (bool, error) {
	node, err := c.node(ctx, nodeID)
	if err != nil || markOf(node.LastDrain, poolName) != pool.MarkOurs {
		return false, err
	}
	return true, c.Enable(ctx, nodeID, poolName)
}

// stamp replaces the mark on a node that is ineligible and not draining.
func (c *Client) stamp(ctx context.Context, node *api.Node, meta map[string]string) error {
	allocs, err := c.allocsOn(ctx, []string{node.Name})
	if err != nil {
		return err
	}
	if len(workByNode(allocs, device{})[node.ID]) > 0 {
		return nil
	}
	return c.updateDrain(ctx, "mark node "+node.ID, node.ID, &api.DrainOptions{
		DrainSpec: &api.DrainSpec{IgnoreSystemJobs: true},
		Meta:      meta,
	})
}

func (c *Client) updateDrain(ctx context.Context, what, nodeID string, opts *api.DrainOptions) error {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	_, err := c.api.Nodes().UpdateDrainOpts(nodeID, opts, (&api.WriteOptions{}).WithContext(reqCtx))
	if err != nil {
		return c.failed(ctx, what, err)
	}
	return nil
}

func (c *Client) node(ctx context.Context, nodeID string) (*api.Node, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	node, _, err := c.api.Nodes().Info(nodeID, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return nil, c.failed(ctx, "read node "+nodeID, err)
	}
	return node, nil
}

// clip bounds a text that Nomad keeps with a node.
func clip(s string) string {
	const limit = 256
	if len(s) <= limit {
		return s
	}
	return s[:limit]
}

// SetNodeMeta sets keys of a node's dynamic metadata, which jobs' constraints
// see, and takes those away whose value is nil. The others stay.
func (c *Client) SetNodeMeta(ctx context.Context, nodeID string, meta map[string]*string) error {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	_, err := c.api.Nodes().Meta().Apply(&api.NodeMetaApplyRequest{NodeID: nodeID, Meta: meta}, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return c.failed(ctx, "set the metadata of node "+nodeID, err)
	}
	return nil
}
