package consul

import (
	"context"
	"fmt"
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

// Agents reads the registered agents by the name of their Nomad node. Those that
// [Client.FindAgents] calls strays are left out.
func (c *Client) Agents(ctx context.Context) (map[string]AgentEntry, error) {
	agents, _, err := c.FindAgents(ctx)
	return agents, err
}

// FindAgents reads the registered agents by the name of their Nomad node. Of two
// that name the same node, as after a host was installed anew, a passing one
// wins, then the one registered last. strays says of each entry that can be no
// agent of this version, such as one that names no node, where it is and why.
func (c *Client) FindAgents(ctx context.Context) (agents map[string]AgentEntry, strays []string, err error) {
	reqCtx, cancel := c.bounded(ctx)
	defer cancel()
	entries, _, err := c.api.Health().Service(AgentService, "", false, (&api.QueryOptions{}).WithContext(reqCtx))
	if err != nil {
		return nil, nil, c.failed(ctx, "read the health of service", AgentService, err)
	}
	agents, strays = sortAgents(entries)
	return agents, strays, nil
}

func sortAgents(entries []*api.ServiceEntry) (byNode map[string]AgentEntry, strays []string) {
	byNode = make(map[string]AgentEntry, len(entries))
	registered := make(map[string]uint64, len(entries))
	for _, e := range entries {
		if why := stray(e); why != "" {
			strays = append(strays, why)
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
	return byNode, strays
}

// stray says why an entry can be no agent; "" where it can.
func stray(e *api.ServiceEntry) string {
	if e == nil || e.Service == nil || e.Node == nil {
		return "an entry without a service or a node"
	}
	where := fmt.Sprintf("service %.128q on Consul node %.128q", e.Service.ID, e.Node.Node)
	switch node := e.Service.Meta["node"]; {
	case node == "":
		return where + ` names no Nomad node: its Meta has no "node"`
	case len(node) > maxText:
		return fmt.Sprintf("%s: the name of its Nomad node has %d bytes", where, len(node))
	case e.Service.Port < 1 || e.Service.Port > 65535:
		return fmt.Sprintf("%s has port %d", where, e.Service.Port)
	}
	return ""
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
