package nomad

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/api"
)

// GroupScale is how many instances of a task group there shall be and are.
type GroupScale struct {
	Wanted  int // the group's count: what a scaling policy sets
	Placed  int // allocations that have a node, and are wanted
	Running int // allocations whose tasks run
}

// Groups reads how many instances of each task group of a job there shall be
// and are. A job that was stopped wants none. The error is ErrNotFound where
// there is no such job.
func (c *Client) Groups(ctx context.Context, namespace, job string) (map[string]GroupScale, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	what := fmt.Sprintf("read the counts of job %.128q in namespace %.128q", job, namespace)
	s, _, err := c.api.Jobs().ScaleStatus(job, (&api.QueryOptions{Namespace: namespace}).WithContext(reqCtx))
	if err != nil {
		return nil, c.failed(ctx, what, err)
	}
	groups := make(map[string]GroupScale, len(s.TaskGroups))
	for name, g := range s.TaskGroups {
		scale := GroupScale{Wanted: max(g.Desired, 0), Placed: max(g.Placed, 0), Running: max(g.Running, 0)}
		if s.JobStopped {
			scale.Wanted = 0
		}
		groups[name] = scale
	}
	return groups, nil
}
