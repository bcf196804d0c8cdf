package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// killTimeouts checks that tasks get the time to end that they ask for: a Nomad
// client cuts it to its own max_kill_timeout without a word, and then work is
// killed that a drain was to wait for. Hosts that are not up are not asked.
func (f *checkFlags) killTimeouts(ctx context.Context, nc *nomad.Client, p inventory.Pool, nodes map[string]pool.Node) []row {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	asked, err := nc.KillTimeouts(ctx, live.Spec(p))
	if err != nil {
		return []row{rowOf(p.Name, "", power.Finding{Level: power.Warning, About: aboutKill, What: err.Error()})}
	}
	var clients []killClient
	var g errgroup.Group
	g.SetLimit(32)
	for _, h := range p.Hosts {
		if n := nodes[h.Node]; n.Status == pool.NodeReady {
			clients = append(clients, killClient{host: h.ID, node: n.ID})
		}
	}
	for i := range clients {
		g.Go(func() error {
			c := &clients[i]
			c.most, c.err = nc.MaxKillTimeout(ctx, c.node)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	var rows []row
	for _, finding := range killFindings(asked, clients) {
		rows = append(rows, rowOf(p.Name, "", finding))
	}
	return rows
}

const aboutKill = "kill_timeout"

// killClient is the Nomad client of a host, and what it cuts kill timeouts to.
type killClient struct {
	host, node string
	most       time.Duration
	err        error // why most is not known
}

// killFindings compares what tasks ask for with what clients give: one finding
// for each task and limit that is too low for it, and one for the clients whose
// limit is not known.
func killFindings(asked []nomad.KillTimeout, clients []killClient) []power.Finding {
	if len(clients) == 0 {
		return []power.Finding{{About: aboutKill, What: "no host is up whose Nomad client could be asked"}}
	}
	byLimit := make(map[time.Duration][]string)
	var unread []string
	var why error
	for _, c := range clients {
		if c.err != nil {
			unread = append(unread, c.host)
			if why == nil || errors.Is(why, context.DeadlineExceeded) {
				why = c.err // the first that says more than that the time was over
			}
			continue
		}
		byLimit[c.most] = append(byLimit[c.most], c.host)
	}
	var longest nomad.KillTimeout
	for _, a := range asked {
		if a.Timeout > longest.Timeout {
			longest = a
		}
	}

	var found []power.Finding
	limits := slices.Sorted(maps.Keys(byLimit))
	for _, a := range asked {
		for _, most := range limits {
			if a.Timeout > most {
				found = append(found, power.Finding{
					Level: power.Wrong, About: aboutKill,
					What: fmt.Sprintf("%s asks for %s, and the Nomad client of %s cuts it to %s: what it has not finished by then is killed",
						taskOf(a), a.Timeout, hostList(byLimit[most]), most),
					Mend: fmt.Sprintf("set client { max_kill_timeout = %q } there, and restart that client", longest.Timeout),
				})
			}
		}
	}
	if len(found) == 0 && len(limits) > 0 {
		what := fmt.Sprintf("no task asks for more than the %s that", limits[0])
		if longest.Timeout > 0 {
			what = fmt.Sprintf("the longest that a task asks for is %s, of the %s that", longest.Timeout, limits[0])
		}
		found = append(found, power.Finding{About: aboutKill, What: what + " Nomad clients give: " + hostList(byLimit[limits[0]])})
	}
	if len(unread) > 0 {
		found = append(found, unreadFinding(longest, unread, why))
	}
	return found
}

// unreadFinding is that of clients which could not be asked. It matters where a
// task asks for more than a client gives by default.
func unreadFinding(longest nomad.KillTimeout, hosts []string, why error) power.Finding {
	f := power.Finding{About: aboutKill, What: fmt.Sprintf("could not be read of the Nomad client of %s: %s", hostList(hosts), why)}
	if longest.Timeout > nomad.DefaultMaxKillTimeout {
		f.Level = power.Warning
		f.Mend = fmt.Sprintf("%s asks for %s, and a client gives %s where its max_kill_timeout is not set: see to it on these hosts",
			taskOf(longest), longest.Timeout, nomad.DefaultMaxKillTimeout)
	}
	return f
}

func taskOf(k nomad.KillTimeout) string {
	text := fmt.Sprintf("task %q of group %q of job %q", k.Task, k.Group, k.Job)
	if k.Namespace != "default" {
		text += fmt.Sprintf(" in namespace %q", k.Namespace)
	}
	return text
}

// hostList names some hosts, and how many more there are.
func hostList(hosts []string) string {
	const most = 4
	if len(hosts) <= most {
		return strings.Join(hosts, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(hosts[:most], ", "), len(hosts)-most)
}
