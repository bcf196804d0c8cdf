package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power/drivers"
)

// errUnanswered is the exit status of a table with holes in it.
var errUnanswered = errors.New("some power controllers did not answer")

func newPower() *cobra.Command {
	var pools string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "power [HOST...]",
		Short: "Read the chassis power of the hosts in the inventory",
		Long: `Read the chassis power of the hosts in the inventory, all of them or those
named, each through its own power controller. It changes nothing: use it to see
whether addresses and credentials are right before a pool is scaled. A refused
password costs one login; a controller is asked once.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			inv, err := inventory.Load(pools, drivers.Check)
			if err != nil {
				return err
			}
			hosts, err := chosen(inv, names)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return printPower(cmd.OutOrStdout(), readPower(ctx, hosts))
		},
	}
	cmd.Flags().StringVar(&pools, "pools", "pools.hcl", "the inventory")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Second, "how long to wait for all answers together")
	return cmd
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
			answers[i] = ask(ctx, h)
			return nil
		})
	}
	_ = g.Wait() // the functions return no error
	return answers
}

func ask(ctx context.Context, h poolHost) answer {
	a := answer{poolHost: h}
	d, err := drivers.New(h.Power.Driver, h.Power.Decode)
	if err != nil {
		a.err = err
		return a
	}
	defer d.Close() //nolint:errcheck // the answer is what counts
	began := time.Now()
	a.state, a.err = d.State(ctx)
	a.took = time.Since(began)
	return a
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
