package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/hashicorp/nomad/api"
	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/reach"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// consulFlags say which Consul is meant. Its environment variables stand in for
// what is not said.
type consulFlags struct{ cfg consul.Config }

func (f *consulFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.cfg.Address, "consul-address", "", "Consul's address (default $CONSUL_HTTP_ADDR, or 127.0.0.1:8500)")
	fl.StringVar(&f.cfg.Prefix, "consul-prefix", consul.DefaultPrefix, "where in Consul's KV store the pools' records are")
}

// nomadFlags say which Nomad is meant, likewise.
type nomadFlags struct{ address string }

func (f *nomadFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.address, "nomad-address", "", "Nomad's address (default $NOMAD_ADDR, or http://127.0.0.1:4646)")
}

func (f *nomadFlags) client() (*nomad.Client, error) {
	cfg := api.DefaultConfig()
	if f.address != "" {
		cfg.Address = f.address
	}
	return nomad.New(nomad.Config{API: cfg})
}

// agentFlags say how the agents on the hosts are reached.
type agentFlags struct {
	reach.Agents
	token string // a reference to it
}

func (f *agentFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.token, "agent-token", "", `bearer token that the agents ask for, as "env:NAME" or "file:PATH"`)
	f.registerTLS(cmd)
}

func (f *agentFlags) registerTLS(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.TLS, "agent-tls", false, "the agents serve TLS")
	fl.StringVar(&f.Files.CA, "agent-ca-file", "", "with --agent-tls: PEM file of the authorities that their certificates are checked against")
	fl.StringVar(&f.Files.Cert, "agent-cert-file", "", "with it: PEM file of the certificate that is shown to them")
	fl.StringVar(&f.Files.Key, "agent-key-file", "", "with it: PEM file of the key of that certificate")
}

// gather is how to ask the agents. What is wrong with certificates that are
// replaced meanwhile shows in what the agents answer.
func (f *agentFlags) gather() (fleet.Config, error) {
	if f.token != "" {
		token, err := secret.Ref(f.token).Resolve()
		if err != nil {
			return fleet.Config{}, fmt.Errorf("--agent-token: %w", err)
		}
		f.Token = token
	}
	if err := f.checkTLS(); err != nil {
		return fleet.Config{}, err
	}
	return f.Gather(slog.New(slog.DiscardHandler))
}

func (f *agentFlags) checkTLS() error {
	if !f.TLS && f.Files.Given() {
		return errors.New("--agent-tls is not set, and certificate files for it are given: set it")
	}
	return nil
}

// poolOf finds the pool that a host is in by the last status of each, or takes
// the one that was named. A name that no pool knows is most likely misspelt.
func poolOf(ctx context.Context, c *consul.Client, pool, host string) (string, error) {
	pools := []string{pool}
	if pool == "" {
		var err error
		if pools, err = c.Pools(ctx); err != nil {
			return "", err
		}
	}
	var in, known []string
	whole := true
	for _, name := range pools {
		s, err := c.Pool(name).Status(ctx)
		if errors.Is(err, consul.ErrNotFound) {
			whole = false
			continue
		}
		if err != nil {
			return "", err
		}
		whole = whole && s.Omitted == 0
		for _, h := range s.Hosts {
			known = append(known, h.ID)
			if h.ID == host {
				in = append(in, name)
			}
		}
	}
	switch {
	case len(in) == 1:
		return in[0], nil
	case len(in) > 1:
		return "", fmt.Errorf("pools %s each have a host %s: say which by --pool", strings.Join(in, " and "), host)
	case pool != "" && !whole:
		return pool, nil // it may be one that the status has no room for, or be new
	case len(known) == 0:
		return "", fmt.Errorf("no pool has a status in Consul at %s yet, so it is not known which one has host %s: say it by --pool", c.Address(), host)
	}
	mend := setting.Suggest(host, known)
	if len(mend) > 300 {
		mend = fmt.Sprintf("they have %d", len(known))
	}
	if !whole {
		mend += "; if it is new, or one of more hosts than a status has room for, say its pool by --pool"
	}
	return "", fmt.Errorf("no host %s in the pools that Consul at %s knows; %s", host, c.Address(), mend)
}
