package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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

// errUnanswered is the exit status of a table with holes in it.
var errUnanswered = errors.New("some power controllers did not answer, or refused")

// powerFlags are those of `gpupool power`.
type powerFlags struct {
	consulFlags
	nomadFlags
	pools   string
	timeout time.Duration
	stagger time.Duration
	force   bool
	json    bool
}

// What `gpupool power` can do, by the word for it.
var powerVerbs = map[string]func(context.Context, power.Driver) error{
	"status": nil,
	"on":     func(ctx context.Context, d power.Driver) error { return d.On(ctx) },
	"soft":   func(ctx context.Context, d power.Driver) error { return d.Off(ctx, power.Soft) },
	"off":    func(ctx context.Context, d power.Driver) error { return d.Off(ctx, power.Hard) },
}

func newPower() *cobra.Command {
	var f powerFlags
	cmd := &cobra.Command{
		Use:   "power [HOST...] [status|on|soft|off]",
		Short: "Read or change the chassis power of hosts, for bringing up a rack",
		Long: `Read the chassis power of the hosts in the inventory, all of them or those
named, each through its own power controller: to see whether addresses and
credentials are right before a pool is scaled. A refused password costs one
login; a controller is asked once.

on powers the named hosts on, soft asks their operating systems to shut down and
off cuts their power, one after the other. Where a process acts on the pool, a
host is changed only while "gpupool host hold" stands for it, so that there are
never two who act; and soft and off only while its Nomad node is ineligible and
has no work. --force skips both questions.`,
		Example: `  gpupool power
  gpupool power gpu-1 gpu-2 on --stagger 5s
  gpupool host hold gpu-1 --reason "new riser" && gpupool power gpu-1 soft`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			verb := "status"
			if n := len(args); n > 0 {
				if _, is := powerVerbs[args[n-1]]; is {
					verb, args = args[n-1], args[:n-1]
				}
			}
			return f.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args, verb)
		},
	}
	cmd.ValidArgsFunction = offer(inventoryHosts)
	f.consulFlags.register(cmd)
	f.nomadFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.pools, "pools", "pools.hcl", "the inventory")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long to wait for an answer: for all of them together, or for each that is changed")
	fl.DurationVar(&f.stagger, "stagger", time.Second, "the least time between two hosts that are changed; the pool's stagger, if that is longer")
	fl.BoolVar(&f.json, "json", false, "write JSON, the stable form in docs/reference/power-command.md")
	fl.BoolVar(&f.force, "force", false, "ask neither Consul nor Nomad whether it is safe")
	return cmd
}

func (f *powerFlags) run(ctx context.Context, out, warn io.Writer, names []string, verb string) error {
	inv, err := inventory.Load(f.pools, drivers.Check, inventory.Lenient())
	if err != nil {
		return err
	}
	for _, w := range inv.Warnings {
		fmt.Fprintln(warn, "warning:", w)
	}
	hosts, err := chosen(inv, names)
	if err != nil {
		return err
	}
	if do := powerVerbs[verb]; do != nil {
		if len(names) == 0 {
			return fmt.Errorf("%s: name the hosts", verb)
		}
		if !f.force {
			if err := f.allowed(ctx, inv, hosts, verb); err != nil {
				return err
			}
		}
		return f.print(out, f.change(ctx, inv, hosts, do))
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return f.print(out, readPower(ctx, hosts))
}

// allowed asks Consul and Nomad whether somebody may change hosts by hand. It
// reports all that speaks against it together.
func (f *powerFlags) allowed(ctx context.Context, inv *inventory.Inventory, hosts []poolHost, verb string) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	const mend = "; --force does it without asking"
	cc, err := consul.New(f.cfg)
	if err != nil {
		return err
	}
	nc, err := f.client()
	if err != nil {
		return err
	}
	var errs []error
	byPool := make(map[string][]poolHost)
	for _, h := range hosts {
		byPool[h.pool] = append(byPool[h.pool], h)
	}
	for _, name := range sortedKeys(byPool) {
		p, _ := inv.Pool(name)
		errs = append(errs, unheld(ctx, cc, name, byPool[name]))
		if verb != "on" {
			errs = append(errs, working(ctx, nc, p, byPool[name]))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("nothing was done%s:\n%w", mend, err)
	}
	return nil
}

// unheld names the hosts that whoever acts on their pool may act on as well.
func unheld(ctx context.Context, cc *consul.Client, name string, hosts []poolHost) error {
	records := cc.Pool(name)
	holder, err := records.Holder(ctx)
	if err != nil || holder == "" {
		return err
	}
	words, err := records.Words(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hosts {
		if words[h.ID].Word != pool.WordHold {
			errs = append(errs, fmt.Errorf("%s: %s acts on pool %s: first run: gpupool host hold %s --reason WHY", h.ID, holder, name, h.ID))
		}
	}
	return errors.Join(errs...)
}

// working names the hosts that would lose work, or could be given some.
func working(ctx context.Context, nc *nomad.Client, p inventory.Pool, hosts []poolHost) error {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Node)
	}
	nodes, err := nc.Nodes(ctx, live.Spec(p), names)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hosts {
		switch n := nodes[h.Node]; {
		case len(n.Work) > 0:
			errs = append(errs, fmt.Errorf("%s: it runs %d allocations, %s of job %s among them", h.ID, len(n.Work), n.Work[0].ID, n.Work[0].Job))
		case n.Status == pool.NodeReady && n.Eligible:
			errs = append(errs, fmt.Errorf("%s: Nomad may place work on it: first run: nomad node eligibility -disable %s", h.ID, n.ID))
		}
	}
	return errors.Join(errs...)
}

// change changes one host after the other, and reads what became of each.
func (f *powerFlags) change(ctx context.Context, inv *inventory.Inventory, hosts []poolHost, do func(context.Context, power.Driver) error) []answer {
	answers := make([]answer, 0, len(hosts))
	for i, h := range hosts {
		p, _ := inv.Pool(h.pool)
		if i > 0 && !pause(ctx, max(f.stagger, p.Stagger)) {
			answers = append(answers, answer{poolHost: h, err: ctx.Err()})
			continue
		}
		each, cancel := context.WithTimeout(ctx, f.timeout)
		answers = append(answers, ask(each, h, do))
		cancel()
	}
	return answers
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// poolHost is a host and the pool that it is in.
type poolHost struct {
	pool string
	inventory.Host
}

// chosen lists the named hosts, or all.
func chosen(inv *inventory.Inventory, names []string) ([]poolHost, error) {
	var hosts []poolHost
	left := slices.Clone(names)
	for _, p := range inv.Pools {
		for _, h := range p.Hosts {
			if len(names) == 0 || slices.Contains(names, h.ID) {
				hosts = append(hosts, poolHost{p.Name, h})
				left = slices.DeleteFunc(left, func(n string) bool { return n == h.ID })
			}
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("no host %s in the inventory", left[0])
	}
	return hosts, nil
}

// answer is what a power controller said.
type answer struct {
	poolHost
	state pool.Power
	took  time.Duration
	err   error
}

// readPower asks all controllers side by side.
func readPower(ctx context.Context, hosts []poolHost) []answer {
	answers := make([]answer, len(hosts))
	var g errgroup.Group
	g.SetLimit(32)
	for i, h := range hosts {
		g.Go(func() error {
			answers[i] = ask(ctx, h, nil)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	return answers
}

// ask changes the power of a host, if do is not nil, and reads it.
func ask(ctx context.Context, h poolHost, do func(context.Context, power.Driver) error) answer {
	a := answer{poolHost: h}
	d, err := drivers.New(h.Power.Driver, h.Power.Decode)
	if err != nil {
		a.err = err
		return a
	}
	defer d.Close() //nolint:errcheck // the answer is what counts
	began := time.Now()
	if do != nil {
		a.err = do(ctx, d)
	}
	if a.err == nil {
		a.state, a.err = d.State(ctx)
	}
	a.took = time.Since(began)
	return a
}

// powered is an answer as JSON.
type powered struct {
	Pool   string  `json:"pool"`
	Host   string  `json:"host"`
	Driver string  `json:"driver"`
	Power  string  `json:"power"` // on, off or unknown
	Took   float64 `json:"took_s"`
	Error  string  `json:"error,omitempty"`
}

func (f *powerFlags) print(w io.Writer, answers []answer) error {
	if !f.json {
		return printPower(w, answers)
	}
	var failed error
	all := []powered{}
	for _, a := range answers {
		p := powered{a.pool, a.ID, a.Power.Driver, a.state.String(), math.Round(a.took.Seconds()*1000) / 1000, ""}
		if a.err != nil {
			failed, p.Error = errUnanswered, a.err.Error()
		}
		all = append(all, p)
	}
	return errors.Join(printJSON(w, all), failed)
}

func printPower(w io.Writer, answers []answer) error {
	var failed error
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tHOST\tDRIVER\tPOWER\tTOOK\t")
	for _, a := range answers {
		why := ""
		if a.err != nil {
			failed, why = errUnanswered, a.err.Error()
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", a.pool, a.ID, a.Power.Driver, a.state, a.took.Round(time.Millisecond), why)
	}
	return errors.Join(t.Flush(), failed)
}
