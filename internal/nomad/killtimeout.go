package nomad

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"
)

// DefaultMaxKillTimeout is what a Nomad client cuts kill timeouts to where its
// configuration does not say: max_kill_timeout in
// https://developer.hashicorp.com/nomad/docs/configuration/client.
const DefaultMaxKillTimeout = 30 * time.Second

// KillTimeout is how long a task asks to have, once it is told to end, before it
// is killed. A Nomad client cuts it to its own max_kill_timeout, and tells
// nobody until then.
type KillTimeout struct {
	Namespace, Job, Group, Task string
	Timeout                     time.Duration
}

// KillTimeouts reads what the tasks of all jobs ask for that may run on the
// pool's nodes, sorted by namespace, job, group and task. Of jobs that are
// dispatched, or begin at their times, it is the one that they are made of.
func (c *Client) KillTimeouts(ctx context.Context, spec PoolSpec) ([]KillTimeout, error) {
	stubs, err := pages(ctx, c, "list jobs", api.QueryOptions{
		Namespace: api.AllNamespacesNamespace,
		// A batch job that is dead is over; a service of no instance is dead as
		// well, and may be scaled up.
		Filter: fmt.Sprintf(`Stop == false and (Type != "batch" and Type != "sysbatch" or Status != "dead") and ParentID == "" and (NodePool == %q or NodePool == %q)`,
			spec.nodePool(), api.NodePoolAll),
	}, c.api.Jobs().List)
	if err != nil {
		return nil, err
	}
	asked := make([][]KillTimeout, len(stubs))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, stub := range stubs {
		group.Go(func() error {
			reqCtx, cancel := c.bounded(gctx)
			defer cancel()
			job, _, err := c.api.Jobs().Info(stub.ID, (&api.QueryOptions{Namespace: stub.Namespace}).WithContext(reqCtx))
			if err != nil {
				return c.unlessGone(gctx, "read job "+stub.ID, err)
			}
			if jobAskOf(job).admits(spec) {
				asked[i] = killTimeoutsOf(stub.Namespace, stub.ID, job)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := slices.Concat(asked...)
	slices.SortFunc(all, func(a, b KillTimeout) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Job, b.Job),
			cmp.Compare(a.Group, b.Group), cmp.Compare(a.Task, b.Task))
	})
	return all, nil
}

func killTimeoutsOf(namespace, id string, job *api.Job) []KillTimeout {
	var all []KillTimeout
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			if g.Name != nil && t.KillTimeout != nil {
				all = append(all, KillTimeout{namespace, id, *g.Name, t.Name, *t.KillTimeout})
			}
		}
	}
	return all
}

// MaxKillTimeout asks the Nomad client of a node what it cuts kill timeouts to.
// Nomad's servers do not know it. So the node's own HTTP address is asked, with
// the same token, which wants agent:read; a client that is not reached there is
// ErrUnreachable.
func (c *Client) MaxKillTimeout(ctx context.Context, nodeID string) (time.Duration, error) {
	node, err := c.node(ctx, nodeID)
	if err != nil {
		return 0, err
	}
	if node.HTTPAddr == "" {
		return 0, fmt.Errorf("node %s in Nomad at %s advertises no HTTP address", nodeID, c.addr)
	}
	agent, done, err := c.agentOf(node)
	if err != nil {
		return 0, fmt.Errorf("nomad client at %s: %w", node.HTTPAddr, err)
	}
	defer done()
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	var self agentSelf
	if _, err := agent.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(reqCtx)); err != nil {
		return 0, failedAt(ctx, node.HTTPAddr, "read the configuration of the client", err)
	}
	limit, err := self.maxKillTimeout(nodeID)
	if err != nil {
		return 0, fmt.Errorf("nomad client at %s: %w", node.HTTPAddr, err)
	}
	return limit, nil
}

// agentOf is an API client of a node's own agent, and what closes it.
func (c *Client) agentOf(node *api.Node) (*api.Client, func(), error) {
	cfg := c.cfg.ClientConfig(cmp.Or(c.cfg.Region, api.GlobalRegion), node.HTTPAddr, node.TLSEnabled)
	// Not the one for the servers: that one checks for a server's certificate,
	// or goes to a socket whatever the address is.
	hc, err := httpClient(cleanhttp.DefaultTransport(), cfg.TLSConfig)
	if err != nil {
		return nil, nil, err
	}
	// The token is for that agent, not for whom it points to.
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.HttpClient = hc
	cl, err := api.NewClient(cfg)
	if err != nil {
		return nil, nil, err
	}
	return cl, hc.CloseIdleConnections, nil
}

// agentSelf is what is needed of the answer of /v1/agent/self.
type agentSelf struct {
	Config struct {
		Client struct{ MaxKillTimeout string }
	}
	Stats struct {
		Client struct {
			NodeID string `json:"node_id"`
		} `json:"client"`
	} `json:"stats"`
}

// maxKillTimeout is the limit, of the node that was meant only: behind a
// translated address there may be another agent.
func (s agentSelf) maxKillTimeout(nodeID string) (time.Duration, error) {
	switch said := s.Config.Client.MaxKillTimeout; {
	case s.Stats.Client.NodeID == "":
		return 0, errors.New("the agent there is no client")
	case s.Stats.Client.NodeID != nodeID:
		return 0, fmt.Errorf("the agent there is that of node %.64q, not of %s", s.Stats.Client.NodeID, nodeID)
	case said == "":
		return DefaultMaxKillTimeout, nil
	default:
		d, err := time.ParseDuration(said)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("its max_kill_timeout %.64q is no duration", said)
		}
		return d, nil
	}
}
