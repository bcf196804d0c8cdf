package nomad

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/api"
)

// NodeID is the ID of the node that a name stands for, as its agent knows it.
// It is ErrNotFound if there is none, or if two machines have the name.
func (c *Client) NodeID(ctx context.Context, name string) (string, error) {
	stubs, err := c.nodesNamed(ctx, []string{name})
	if err != nil {
		return "", err
	}
	stub, problem := choose(stubs)
	if stub == nil {
		return "", fmt.Errorf("node %q in Nomad at %s: %w: %s", name, c.addr, ErrNotFound,
			orElse(problem, "give the agent the name of this host's Nomad node with -node"))
	}
	return stub.ID, nil
}

// HostAllocs reads the allocations of a node that Nomad has not forgotten, in all
// namespaces that the token may read, with their jobs. With an index it waits
// until something has changed since, for as long as wait. It returns the index
// for the next call, 0 if that has to begin anew. Any server may answer.
func (c *Client) HostAllocs(ctx context.Context, nodeID string, index uint64, wait time.Duration) ([]*api.Allocation, uint64, error) {
	// Nomad adds up to a sixteenth of the time, so that not all come back at once.
	reqCtx, cancel := context.WithTimeout(ctx, wait+wait/16+c.timeout)
	defer cancel()
	q := &api.QueryOptions{WaitIndex: index, WaitTime: wait, AllowStale: true}
	allocs, meta, err := c.api.Nodes().Allocations(nodeID, q.WithContext(reqCtx))
	if err != nil {
		return nil, 0, c.failed(ctx, "read the allocations of node "+nodeID, err)
	}
	if len(allocs) > maxList {
		return nil, 0, fmt.Errorf("node %s in Nomad at %s has %d allocations", nodeID, c.addr, len(allocs))
	}
	next := meta.LastIndex
	if next < index { // Nomad's servers were set back
		next = 0
	}
	return allocs, next, nil
}

// SetToken changes the ACL token, as for one that is renewed. It must not be
// called during a request.
func (c *Client) SetToken(token string) {
	c.api.SetSecretID(token)
	c.cfg.SecretID = token
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
