package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
)

func newStatus() *cobra.Command {
	var f consulFlags
	var every time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [POOL...]",
		Short: "Show what is wanted of each pool, and how its hosts stand",
		Long: `Show what is wanted of each pool, how its hosts stand, as the process that acts
on the pool last saw them, what operators said of them, and how long they take
to boot, to drain and to stop. It reads Consul; CONSUL_HTTP_ADDR and the other
environment variables of Consul's own command apply.`,
		RunE: func(cmd *cobra.Command, pools []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			client, err := consul.New(f.cfg)
			if err != nil {
				return err
			}
			for {
				err := printStatus(ctx, cmd.OutOrStdout(), client, pools, asJSON)
				if every == 0 || err != nil && ctx.Err() == nil {
					return err
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(every):
					fmt.Fprintln(cmd.OutOrStdout())
				}
			}
		},
	}
	cmd.ValidArgsFunction = offer(consulPools(&f))
	f.register(cmd)
	cmd.Flags().DurationVar(&every, "watch", 0, "print it again after so long, until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON, the stable form in docs/reference/status.md")
	return cmd
}

// stand is how a pool stands, as JSON. What is not known is null.
type stand struct {
	Pool   string           `json:"pool"`
	Want   *consul.Want     `json:"want"`
	Status *consul.Status   `json:"status"`
	Said   []word           `json:"said"`
	Times  map[string]taken `json:"times"` // by class; "" for a pool of one kind
}

// taken is how long hosts of one class take, in seconds.
type taken struct {
	Boot  quantiles `json:"boot"`
	Drain quantiles `json:"drain"`
	Stop  quantiles `json:"stop"`
}

type quantiles struct {
	Known int     `json:"known"` // durations that these are of
	P50   float64 `json:"p50_s"`
	P95   float64 `json:"p95_s"`
}

func quantilesOf(t pool.Took) quantiles {
	return quantiles{len(t.Last), t.Quantile(0.5).Seconds(), t.Quantile(0.95).Seconds()}
}

func standOf(p board.Pool) stand {
	s := stand{Pool: p.Name, Want: p.Want, Status: p.Status, Said: []word{}, Times: map[string]taken{}}
	for _, host := range sortedKeys(p.Words) {
		s.Said = append(s.Said, word{p.Name, host, p.Words[host]})
	}
	for class, t := range p.Times {
		s.Times[class] = taken{quantilesOf(t.Boot), quantilesOf(t.Drain), quantilesOf(t.Stop)}
	}
	return s
}

func printStatus(ctx context.Context, w io.Writer, client *consul.Client, names []string, asJSON bool) error {
	if len(names) == 0 {
		var err error
		if names, err = client.Pools(ctx); err != nil {
			return err
		}
		if len(names) == 0 && !asJSON {
			_, err := fmt.Fprintf(w, "no pool has records in Consul at %s\n", client.Address())
			return err
		}
	}
	stands := []stand{}
	for _, name := range names {
		p, err := readPool(ctx, client, name)
		if err != nil {
			return err
		}
		if p.Want == nil && p.Status == nil {
			return fmt.Errorf("pool %s has no records in Consul at %s", name, client.Address())
		}
		if asJSON {
			stands = append(stands, standOf(p))
			continue
		}
		if err := board.Print(w, p, time.Now()); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(w, stands)
	}
	return nil
}

func readPool(ctx context.Context, client *consul.Client, name string) (board.Pool, error) {
	p := board.Pool{Name: name}
	records := client.Pool(name)
	want, err := records.Want(ctx)
	switch {
	case err == nil:
		p.Want = &want
	case !errors.Is(err, consul.ErrNotFound):
		return p, err
	}
	status, err := records.Status(ctx)
	switch {
	case err == nil:
		p.Status = &status
	case !errors.Is(err, consul.ErrNotFound):
		return p, err
	}
	if p.Words, err = records.Words(ctx); err != nil {
		return p, err
	}
	if p.Times, err = records.Times(ctx); errors.Is(err, consul.ErrCorrupt) {
		err = nil // they are estimates, and who acts says so
	}
	return p, err
}
