package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strings"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/notice"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/secret"
)

// noticesConfig is who is asked whether this host will be taken away.
type noticesConfig struct {
	Ask   string // sources, separated by commas
	Drain bool   // whether Nomad's node is drained then

	sources map[string]notice.Source
}

func (c *noticesConfig) flags(f *flag.FlagSet) {
	f.StringVar(&c.Ask, "notices", "", "`sources` to ask whether this host will be taken away, separated by commas: aws, gcp, azure, file:PATH, http://HOST/PATH")
	f.BoolVar(&c.Drain, "drain", true, "drain this host's node on a notice; it wants -nomad, and a token with node:write")
}

func (c *noticesConfig) validate(nomadIs string) error {
	c.sources = make(map[string]notice.Source)
	var errs []error
	for name := range strings.SplitSeq(c.Ask, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		s, err := notice.Parse(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("-notices: %w", err))
		}
		c.sources[name] = s
	}
	if len(c.sources) > 0 && c.Drain && nomadIs == offWord {
		errs = append(errs, errors.New("-notices without -nomad: there is no node to drain; give it, or -drain=false"))
	}
	return errors.Join(errs...)
}

// watchNotices makes what hears notices and acts on them, or nils where nobody
// is to be asked.
func watchNotices(cfg config, servers *instances, log *slog.Logger) (*notice.Watch, *notice.Leaver, error) {
	if len(cfg.notices.sources) == 0 {
		return nil, nil, nil
	}
	watch := notice.New(notice.Config{Sources: cfg.notices.sources, Log: log})
	leave := notice.LeaverConfig{Watch: watch, Node: cfg.Node, Log: log}
	if servers != nil {
		leave.Hold = servers.watcher.Hold
	}
	if cfg.notices.Drain {
		api := nomadapi.DefaultConfig()
		api.Address = cfg.instances.Nomad
		client, err := nomad.New(nomad.Config{API: api})
		if err != nil {
			return nil, nil, fmt.Errorf("-nomad %.200q: %w", cfg.instances.Nomad, err)
		}
		leave.Nomad = tokened{client, secret.Ref(cfg.instances.Token)}
	}
	return watch, notice.NewLeaver(leave), nil
}

// tokened is Nomad with the token read anew for each request, since it may be
// renewed while the agent runs. Only the leaver uses it, one request at a time.
type tokened struct {
	client *nomad.Client
	token  secret.Ref
}

func (n tokened) fresh() (*nomad.Client, error) {
	if n.token == "" {
		return n.client, nil
	}
	token, err := n.token.Resolve()
	if err != nil {
		return nil, fmt.Errorf("Nomad token: %w", err)
	}
	n.client.SetToken(token)
	return n.client, nil
}

func (n tokened) NodeID(ctx context.Context, name string) (string, error) {
	c, err := n.fresh()
	if err != nil {
		return "", err
	}
	return c.NodeID(ctx, name)
}

func (n tokened) Drain(ctx context.Context, nodeID string, spec nomad.DrainSpec) error {
	c, err := n.fresh()
	if err != nil {
		return err
	}
	return c.Drain(ctx, nodeID, spec)
}

func (n tokened) GiveBack(ctx context.Context, nodeID, mark string) (bool, error) {
	c, err := n.fresh()
	if err != nil {
		return false, err
	}
	return c.GiveBack(ctx, nodeID, mark)
}
