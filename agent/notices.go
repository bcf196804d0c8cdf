package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/gpupool/gpupool/agent/notice"
	"github.com/gpupool/gpupool/agent/standing"
	"github.com/gpupool/gpupool/internal/fleet"
)

// noticesConfig is who is asked whether this host will be taken away.
type noticesConfig struct {
	Ask   string // sources, separated by commas
	Drain bool   // whether Nomad's node is drained then
	Meta  bool   // whether Nomad is told how the GPUs stand

	sources map[string]notice.Source
}

func (c *noticesConfig) flags(f *flag.FlagSet) {
	f.StringVar(&c.Ask, "notices", "", "`sources` to ask whether this host will be taken away, separated by commas: aws, gcp, azure, file:PATH, http://HOST/PATH")
	f.BoolVar(&c.Meta, "node-meta", false, "tell Nomad how the GPUs stand, as metadata of this host's node; it wants -nomad, and a token with node:write")
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
	if c.Meta && nomadIs == offWord {
		errs = append(errs, errors.New("-node-meta without -nomad: there is nobody to tell"))
	}
	return errors.Join(errs...)
}

// tellNomad makes what tells Nomad how the GPUs stand, or nil.
func tellNomad(cfg config, snapshot func() fleet.Snapshot, log *slog.Logger) (*standing.Teller, error) {
	if !cfg.notices.Meta {
		return nil, nil
	}
	client, err := askNomad(cfg)
	if err != nil {
		return nil, err
	}
	return standing.New(standing.Config{Snapshot: snapshot, Log: log, Tell: func(ctx context.Context, meta map[string]*string) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return client.SetMeta(ctx, cfg.Node, meta)
	}}), nil
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
		client, err := askNomad(cfg)
		if err != nil {
			return nil, nil, err
		}
		leave.Nomad = client
	}
	return watch, notice.NewLeaver(leave), nil
}
