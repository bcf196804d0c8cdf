package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/live"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/drivers"
)

// planFlags are those of `gpupool plan`.
type planFlags struct {
	consulFlags
	nomadFlags
	agentFlags
	pools    string
	want     int
	given    bool
	askPower bool
	timeout  time.Duration
	json     bool
}

func newPlan() *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan [POOL...]",
		Short: "Show what the next tick would do, changing nothing",
		Long: `Show what the next tick of the loop would do, with the reason of each step, from
what Consul, Nomad and the agents say now. It holds no lease, writes nothing and
changes nothing. The power of the hosts is what whoever acts on the pool last
saw; with --power the power controllers are asked, which takes the credentials.`,
		Example: `  gpupool plan
  gpupool plan h100 --want 4
  gpupool plan h100 --power`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, names []string) error {
			f.given = cmd.Flags().Changed("want")
			ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
			defer cancel()
			return f.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr(), names)
		},
	}
	cmd.ValidArgsFunction = offer(inventoryPools)
	f.consulFlags.register(cmd)
	f.nomadFlags.register(cmd)
	f.agentFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.pools, "pools", "pools.hcl", "the inventory")
	fl.IntVar(&f.want, "want", 0, "plan for this count instead of the wanted one")
	fl.BoolVar(&f.askPower, "power", false, "ask the power controllers")
	fl.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long all of it may take")
	fl.BoolVar(&f.json, "json", false, "write JSON, the stable form in docs/reference/plan.md")
	return cmd
}

// planned is what would be done in one pool.
type planned struct {
	Pool    string       `json:"pool"`
	At      time.Time    `json:"at"`
	Want    int          `json:"want"`    // corrected to the floor, to spare and to the hosts that there are
	Have    int          `json:"have"`    // in service or on their way
	Ready   int          `json:"ready"`   // in service
	Note    string       `json:"note"`    // why the wanted count is not met
	Refused string       `json:"refused"` // the law that the decision would break: nothing of it would be done
	Hosts   []plannedAt  `json:"hosts"`
	Actions []plannedAct `json:"actions"`
}

type plannedAt struct {
	Host  string  `json:"host"`
	Class string  `json:"class,omitempty"`
	Power string  `json:"power"`
	Phase string  `json:"phase"`
	Why   string  `json:"why"`
	GPUs  int     `json:"gpus"`
	Busy  int     `json:"gpus_busy"`
	Watts float64 `json:"watts,omitempty"`
}

type plannedAct struct {
	Host string `json:"host"`
	Do   string `json:"do"`
	Why  string `json:"why"`
}

func (f *planFlags) run(ctx context.Context, out, warn io.Writer, names []string) error {
	inv, err := inventory.Load(f.pools, drivers.Check, inventory.Lenient())
	if err != nil {
		return err
	}
	for _, w := range inv.Warnings {
		fmt.Fprintln(warn, "warning:", w)
	}
	pools, err := chosenPools(inv, names)
	if err != nil {
		return err
	}
	cc, err := consul.New(f.cfg)
	if err != nil {
		return err
	}
	nc, err := f.client()
	if err != nil {
		return err
	}
	plans := []planned{}
	for _, p := range pools {
		plan, err := f.plan(ctx, cc, nc, p)
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
		plans = append(plans, plan)
	}
	if f.json {
		return printJSON(out, plans)
	}
	for _, p := range plans {
		if err := p.print(out); err != nil {
			return err
		}
	}
	return nil
}

func (f *planFlags) plan(ctx context.Context, cc *consul.Client, nc *nomad.Client, p inventory.Pool) (planned, error) {
	status, err := cc.Pool(p.Name).Status(ctx)
	if err != nil && !errors.Is(err, consul.ErrNotFound) {
		return planned{}, err
	}
	hosts, err := f.hosts(status, p)
	if err != nil {
		return planned{}, err
	}
	limits := live.Limits(p)
	gather, err := f.gather()
	if err != nil {
		return planned{}, err
	}
	site := live.NewSite(live.SiteConfig{
		Hosts: hosts, Nomad: nc, Consul: cc, Spec: live.Spec(p), Kinds: live.Kinds(p),
		Agent: limits.Agent, DrainDeadline: p.DrainDeadline, Gather: gather, Own: actor(status, p),
	})
	defer site.Close() //nolint:errcheck // it was only looked at
	look := live.LookConfig{Pool: p.Name, Site: site, Consul: cc, Limits: limits}
	if f.given {
		look.Want = &f.want
	}
	r, err := live.Look(ctx, look)
	refused := ""
	switch {
	case errors.Is(err, pool.ErrUnsafe):
		refused = err.Error()
	case err != nil:
		return planned{}, err
	case !r.WantKnown:
		return planned{}, errors.New("no count is wanted yet; plan for one with --want")
	}
	return plannedOf(p.Name, r, refused), nil
}

// actor is where the process runs that acts on the pool, as far as it matters.
func actor(s consul.Status, p inventory.Pool) live.Own {
	for _, h := range p.Hosts {
		if h.ID == s.Self {
			return live.Own{Node: h.Node}
		}
	}
	return live.Own{}
}

// hosts makes the hosts with the power controllers, or with what was last seen
// of them.
func (f *planFlags) hosts(s consul.Status, p inventory.Pool) ([]live.Host, error) {
	if f.askPower {
		return live.Hosts(p)
	}
	if s.At.IsZero() {
		return live.Blind(p, "nobody has looked yet; ask the power controllers with --power"), nil
	}
	// A loop that is well writes once a minute.
	const most = 2 * time.Minute
	age := time.Since(s.At)
	seen := make(map[string]string, len(s.Hosts))
	for _, h := range s.Hosts {
		seen[h.ID] = h.Power
	}
	hosts := live.Blind(p, fmt.Sprintf("it was last looked at %s ago; ask the power controllers with --power", board.Age(age)))
	for i, h := range hosts {
		if state := seen[h.ID]; age <= most && (state == "on" || state == "off") {
			hosts[i].Driver = remembered(state)
		}
	}
	return hosts, nil
}

// remembered is the power of a host as somebody else saw it.
type remembered string

func (r remembered) State(context.Context) (pool.Power, error) {
	if r == "on" {
		return pool.PowerOn, nil
	}
	return pool.PowerOff, nil
}

func (remembered) On(context.Context) error             { return power.ErrUnsupported }
func (remembered) Off(context.Context, power.Off) error { return power.ErrUnsupported }
func (remembered) Close() error                         { return nil }

func plannedOf(name string, r control.Report, refused string) planned {
	d := r.Decision
	p := planned{
		Pool: name, At: r.At, Want: d.Want, Have: d.Have, Ready: d.Ready, Note: d.Note, Refused: refused,
		Hosts: []plannedAt{}, Actions: []plannedAct{},
	}
	for _, h := range d.Hosts {
		p.Hosts = append(p.Hosts, plannedAt{h.ID, h.Class, h.Power.String(), h.Phase.String(), h.Why, h.GPUs, h.GPUsBusy, h.Watts})
	}
	for _, a := range d.Actions {
		p.Actions = append(p.Actions, plannedAct{a.Host, a.Do.String(), a.Why})
	}
	return p
}

func (p planned) print(out io.Writer) error {
	fmt.Fprintf(out, "pool %s   want %d   have %d   ready %d\n", p.Pool, p.Want, p.Have, p.Ready)
	if p.Note != "" {
		fmt.Fprintf(out, "  note: %s\n", p.Note)
	}
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  HOST\tPOWER\tPHASE\tNEXT\tWHY")
	acts := make(map[string]plannedAct, len(p.Actions))
	for _, a := range p.Actions {
		acts[a.Host] = a
	}
	for _, h := range p.Hosts {
		next, why := "-", h.Why
		if a, ok := acts[h.Host]; ok {
			next, why = a.Do, a.Why
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", h.Host, h.Power, h.Phase, next, why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var err error
	switch {
	case p.Refused != "":
		_, err = fmt.Fprintf(out, "  nothing of it would be done: %s\n", p.Refused)
	case len(p.Actions) == 0:
		_, err = fmt.Fprintln(out, "  nothing to do")
	}
	return err
}

// chosenPools are the named pools, or all.
func chosenPools(inv *inventory.Inventory, names []string) ([]inventory.Pool, error) {
	if len(names) == 0 {
		return inv.Pools, nil
	}
	var pools []inventory.Pool
	for _, name := range names {
		p, found := inv.Pool(name)
		if !found {
			var known []string
			for _, p := range inv.Pools {
				known = append(known, p.Name)
			}
			return nil, fmt.Errorf("no pool %s in the inventory; it has %s", name, strings.Join(known, ", "))
		}
		pools = append(pools, p)
	}
	return pools, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
