package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/drivers"
)

// errWrong is the exit status of a check that found something wrong.
var errWrong = errors.New("something is wrong: see above")

// checkFlags are those of `gpupool check`.
type checkFlags struct {
	consulFlags
	nomadFlags
	offline bool
	all     bool
	json    bool
	timeout time.Duration
}

func newCheck() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check [POOLS.HCL]",
		Short: "Check an inventory, and all that it names, before it is trusted",
		Long: `Check an inventory: its text; then, for each host, its credentials, whether its
power controller answers, and what is unsafe about that (cipher suite 0, logins
without a password, certificates, clocks, account locks, the rights of a cloud's
credential); whether Consul and Nomad know the pools and the hosts, and what time
it is; and whether the hosts' Nomad clients give tasks the time to end that they
ask for. It changes nothing. A controller is asked once or twice, and a refused
password costs one login.

The exit status is 1 if something is wrong, and 0 if there are warnings only.`,
		Example: `  gpupool check
  gpupool check /etc/gpupool/pools.hcl --offline`,
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "pools.hcl"
			if len(args) > 0 {
				path = args[0]
			}
			rows, err := f.check(cmd.Context(), path)
			if err != nil {
				return err
			}
			return f.print(cmd.OutOrStdout(), rows)
		},
	}
	f.consulFlags.register(cmd)
	f.nomadFlags.register(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&f.offline, "offline", false, "check the text and the credentials, and ask nobody")
	fl.BoolVar(&f.all, "all", false, "show what is right, too")
	fl.BoolVar(&f.json, "json", false, "write JSON, all of it, the stable form in docs/reference/check.md")
	fl.DurationVar(&f.timeout, "timeout", 20*time.Second, "how long one power controller, Consul or Nomad may take")
	return cmd
}

// row is one thing that was checked.
type row struct {
	Pool   string `json:"pool,omitempty"`
	Host   string `json:"host,omitempty"`
	Check  string `json:"check"`
	Result string `json:"result"` // ok, warning or WRONG
	What   string `json:"what"`
	Mend   string `json:"mend,omitempty"`

	level power.Level
}

func rowOf(pool, host string, f power.Finding) row {
	return row{pool, host, f.About, f.Level.String(), f.What, f.Mend, f.Level}
}

// check checks everything. The error is one that leaves nothing to check.
func (f *checkFlags) check(ctx context.Context, path string) ([]row, error) {
	inv, err := inventory.Load(path, drivers.Check, inventory.Lenient())
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, w := range inv.Warnings {
		rows = append(rows, rowOf("", "", power.Finding{Level: power.Warning, About: "inventory", What: w}))
	}
	hosts, err := chosen(inv, nil)
	if err != nil {
		return nil, err
	}
	rows = append(rows, f.hosts(ctx, hosts)...)
	if !f.offline {
		for _, p := range inv.Pools {
			rows = append(rows, f.consul(ctx, p)...)
			rows = append(rows, f.nomad(ctx, p)...)
		}
		rows = append(rows, f.clocks(ctx)...)
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Host, b.Host))
	})
	return rows, nil
}

// hosts checks the power of all hosts, side by side.
func (f *checkFlags) hosts(ctx context.Context, hosts []poolHost) []row {
	found := make([][]power.Finding, len(hosts))
	var g errgroup.Group
	g.SetLimit(32)
	for i, h := range hosts {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, f.timeout)
			defer cancel()
			found[i] = f.power(ctx, h)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	var rows []row
	for i, h := range hosts {
		for _, finding := range found[i] {
			rows = append(rows, rowOf(h.pool, h.ID, finding))
		}
	}
	return rows
}

// power checks the power controller of one host.
func (f *checkFlags) power(ctx context.Context, h poolHost) []power.Finding {
	d, err := drivers.New(h.Power.Driver, h.Power.Decode)
	if err != nil {
		return []power.Finding{{Level: power.Wrong, About: "driver", What: err.Error()}}
	}
	defer d.Close() //nolint:errcheck // it was only read
	found := []power.Finding{{About: "driver", What: h.Power.Driver}}
	if f.offline {
		return found
	}
	began := time.Now()
	state, err := d.State(ctx)
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case errors.Is(err, power.ErrAuth):
		return append(found, power.Finding{Level: power.Wrong, About: "credential", What: err.Error(), Mend: "correct it; this was one login"})
	case err != nil:
		return append(found, power.Finding{Level: power.Wrong, About: "power", What: fmt.Sprintf("not readable after %s: %s", took, err)})
	}
	found = append(found, power.Finding{About: "power", What: fmt.Sprintf("%s, after %s", state, took)})
	if a, can := d.(power.Auditor); can {
		found = append(found, a.Audit(ctx)...)
	}
	return found
}

// consul checks that the pool's records can be read.
func (f *checkFlags) consul(ctx context.Context, p inventory.Pool) []row {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	finding := power.Finding{About: "Consul"}
	cc, err := consul.New(f.cfg)
	if err == nil {
		_, err = cc.Pool(p.Name).Intents(ctx)
	}
	var holder string
	if err == nil {
		holder, err = cc.Pool(p.Name).Holder(ctx)
	}
	switch {
	case err != nil:
		finding.Level, finding.What = power.Wrong, err.Error()
	case holder == "":
		finding.What = "answers; nobody acts on the pool"
	default:
		finding.What = holder + " acts on the pool"
	}
	rows := []row{rowOf(p.Name, "", finding)}
	if err == nil && p.Agent != inventory.AgentNone {
		rows = append(rows, agents(ctx, cc, p)...)
	}
	return rows
}

// agents tells which hosts have none that is well, where it should be.
func agents(ctx context.Context, cc *consul.Client, p inventory.Pool) []row {
	entries, err := cc.Agents(ctx)
	if err != nil {
		return []row{rowOf(p.Name, "", power.Finding{Level: power.Wrong, About: "agents", What: err.Error()})}
	}
	var rows []row
	for _, h := range p.Hosts {
		if e, there := entries[h.Node]; there && !e.Passing {
			rows = append(rows, rowOf(p.Name, h.ID, power.Finding{Level: power.Warning, About: "agent", What: fmt.Sprintf("is %s in Consul, at %s", e.Health, e.Addr)}))
		} else if there {
			rows = append(rows, rowOf(p.Name, h.ID, power.Finding{About: "agent", What: "passing, at " + e.Addr}))
		}
	}
	return rows
}

// nomad checks that each host's node, if it is there, is what the inventory
// says, and gives tasks the time to end that they ask for.
func (f *checkFlags) nomad(ctx context.Context, p inventory.Pool) []row {
	names := make([]string, len(p.Hosts))
	for i, h := range p.Hosts {
		names[i] = h.Node
	}
	nc, err := f.client()
	var nodes map[string]pool.Node
	if err == nil {
		nodes, err = f.nodes(ctx, nc, p, names)
	}
	if err != nil {
		return []row{rowOf(p.Name, "", power.Finding{Level: power.Wrong, About: "Nomad", What: err.Error()})}
	}
	var rows []row
	for _, h := range p.Hosts {
		rows = append(rows, rowOf(p.Name, h.ID, nodeFinding(h, nodes[h.Node])))
	}
	return append(rows, f.killTimeouts(ctx, nc, p, nodes)...)
}

func (f *checkFlags) nodes(ctx context.Context, nc *nomad.Client, p inventory.Pool, names []string) (map[string]pool.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return nc.Nodes(ctx, live.Spec(p), names)
}

func nodeFinding(h inventory.Host, n pool.Node) power.Finding {
	f := power.Finding{About: "Nomad node"}
	switch {
	case n.Problem != "":
		f.Level, f.What = power.Wrong, n.Problem
	case n.Status == pool.NodeAbsent:
		f.Level, f.What = power.Warning, "Nomad knows no node "+h.Node
		f.Mend = "right if the host never joined; else correct node"
	case n.Status == pool.NodeReady && n.GPUs < h.GPUs:
		f.Level, f.What = power.Wrong, fmt.Sprintf("is ready with %d of %d healthy GPUs of the pool's device", n.GPUs, h.GPUs)
		f.Mend = "see nomad node status " + n.ID + ", and correct gpus, device, or the host"
	default:
		f.What = fmt.Sprintf("is %s, with %d GPUs", n.Status, n.GPUs)
	}
	return f
}

// clocks compares the clocks of Consul and Nomad with ours. That they cannot be
// asked is told with the pools.
func (f *checkFlags) clocks(ctx context.Context) []row {
	var rows []row
	ask := func(whose string, clock func(context.Context) (time.Time, bool, error)) {
		ctx, cancel := context.WithTimeout(ctx, f.timeout)
		defer cancel()
		asked := time.Now()
		if at, ok, err := clock(ctx); err == nil && ok {
			rows = append(rows, rowOf("", "", power.ApartFinding(whose, at, asked, time.Now())))
		}
	}
	if cc, err := consul.New(f.cfg); err == nil {
		ask("the clock of Consul at "+cc.Address(), cc.Clock)
	}
	if nc, err := f.client(); err == nil {
		ask("the clock of Nomad at "+nc.Address(), nc.Clock)
	}
	return rows
}

func (f *checkFlags) print(out io.Writer, rows []row) error {
	count := make(map[power.Level]int)
	for _, r := range rows {
		count[r.level]++
	}
	var failed error
	if count[power.Wrong] > 0 {
		failed = errWrong
	}
	if f.json {
		return errors.Join(printJSON(out, rows), failed)
	}
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	if f.all || count[power.Good] < len(rows) {
		fmt.Fprintln(t, "POOL\tHOST\tCHECK\tRESULT\t")
	}
	for _, r := range rows {
		if r.level == power.Good && !f.all {
			continue
		}
		what := r.What
		if r.Mend != "" {
			what += "; " + r.Mend
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(r.Pool, "-"), cmp.Or(r.Host, "-"), r.Check, r.Result, what)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%d checks: %d right, %d warnings, %d wrong\n", len(rows), count[power.Good], count[power.Warning], count[power.Wrong])
	return errors.Join(err, failed)
}
