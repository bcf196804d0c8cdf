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
)

func newStatus() *cobra.Command {
	var cfg consul.Config
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status [POOL...]",
		Short: "Show what is wanted of each pool, and how its hosts stand",
		Long: `Show what is wanted of each pool, and how its hosts stand, as the process that
acts on the pool last saw them. It reads Consul; CONSUL_HTTP_ADDR and the other
environment variables of Consul's own command apply.`,
		RunE: func(cmd *cobra.Command, pools []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			client, err := consul.New(cfg)
			if err != nil {
				return err
			}
			for {
				err := printStatus(ctx, cmd.OutOrStdout(), client, pools)
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
	cmd.Flags().StringVar(&cfg.Address, "consul-address", "", "Consul's address")
	cmd.Flags().StringVar(&cfg.Prefix, "consul-prefix", consul.DefaultPrefix, "where in Consul's KV store the pools' records are")
	cmd.Flags().DurationVar(&every, "watch", 0, "print it again after so long, until interrupted")
	return cmd
}

func printStatus(ctx context.Context, w io.Writer, client *consul.Client, names []string) error {
	if len(names) == 0 {
		var err error
		if names, err = client.Pools(ctx); err != nil {
			return err
		}
		if len(names) == 0 {
			_, err := fmt.Fprintf(w, "no pool has records in Consul at %s\n", client.Address())
			return err
		}
	}
	for _, name := range names {
		p, err := readPool(ctx, client, name)
		if err != nil {
			return err
		}
		if p.Want == nil && p.Status == nil {
			return fmt.Errorf("pool %s has no records in Consul at %s", name, client.Address())
		}
		if err := board.Print(w, p, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func readPool(ctx context.Context, client *consul.Client, name string) (board.Pool, error) {
	p := board.Pool{Name: name}
	want, err := client.Pool(name).Want(ctx)
	switch {
	case err == nil:
		p.Want = &want
	case !errors.Is(err, consul.ErrNotFound):
		return p, err
	}
	status, err := client.Pool(name).Status(ctx)
	switch {
	case err == nil:
		p.Status = &status
	case !errors.Is(err, consul.ErrNotFound):
		return p, err
	}
	return p, nil
}
