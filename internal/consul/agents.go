package consul

import (
	"context"
	"net"
	"strconv"

	"github.com/hashicorp/consul/api"
)

// AgentService is the Consul service that every gpupool agent registers, with
// its host's Nomad node name as Meta "node".
const AgentService = "gpupool-agent"

// AgentEntry is one registered agent.
type AgentEntry struct {
	Node    string // name of the Nomad node
	Host    string // name of the Consul node
	Addr    string // host:port of the agent's HTTP server
	Passing bool   // all its checks pass, the Consul node's own among them
	Health  string // passing, warning, critical or maintenance
}

// Agents reads the registered agents by the name of their Nomad node. An agent
// that names no node is left out, as it can be matched to no host. Of two that
// name the same node, as after a host was installed anew, a passing one wins,
// then the one registered last.
func (c *Client) Agents(ctx context.Context) (map[string]AgentEntry, error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	entries, _, err := c.api.Health().Service(AgentService, "", false, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return nil, c.failed(ctx, "read the health of service", AgentService, err)
	}
	return agents(entries), nil
}

func agents(entries []*api.ServiceEntry) map[string]AgentEntry {
	byNode := make(map[string]AgentEntry, len(entries))
	registered := make(map[string]uint64, len(entries))
	for _, e := range entries {
		if e == nil || e.Service == nil || e.Node == nil || e.Service.Meta["node"] == "" {
			continue
		}
		a := agent(e)
		old, dup := byNode[a.Node]
		better := a.Passing && !old.Passing ||
			a.Passing == old.Passing && e.Service.CreateIndex > registered[a.Node]
		if !dup || better {
			byNode[a.Node], registered[a.Node] = a, e.Service.CreateIndex
		}
	}
	return byNode
}

func agent(e *api.ServiceEntry) AgentEntry {
	host := e.Service.Address
	if host == "" {
		host = e.Node.Address
	}
	health := e.Checks.AggregatedStatus()
	return AgentEntry{
		Node:    e.Service.Meta["node"],
		Host:    e.Node.Node,
		Addr:    net.JoinHostPort(host, strconv.Itoa(e.Service.Port)),
		Passing: health == api.HealthPassing,
		Health:  health,
	}
}
