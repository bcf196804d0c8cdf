package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/agent/gpu"
	"github.com/gpupool/gpupool/agent/nvml"
	"github.com/gpupool/gpupool/agent/proc"
	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/fleet"
)

// patience is how long an ending agent waits for the driver. A call that
// hangs is left behind: nothing can cancel it.
const patience = 2 * time.Second

// serveHost runs the agent until ctx ends, or until it must be started anew.
// Sampling, HTTP and heart-beats each go on whatever the others do.
func serveHost(ctx context.Context, cfg config, log *slog.Logger) error {
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w (another agent on this host? -listen chooses another address)", err)
	}
	started := time.Now()
	sampler := gpu.New(gpu.Config{
		Driver: nvml.New(cfg.NVML),
		Owner:  proc.New("/proc").Owner,
		Period: cfg.Period,
		Log:    log,
	})
	root := os.Geteuid() == 0
	if !root {
		log.Warn("the agent does not run as root: it cannot tell whether GPUs are busy outside Nomad")
	}
	snapshot := func() fleet.Snapshot {
		now := time.Now()
		s := asSeenBy(root, sampler.Snapshot(now))
		s.Node = cfg.Node
		s.Agent = fleet.Agent{Version: version, Uptime: now.Sub(started).Seconds()}
		return s
	}
	answers := serve.Config{Snapshot: snapshot, Token: cfg.token}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	left := make(chan struct{}) // closed when the agent is out of Consul
	if registration, err := registrar(cfg, listener, snapshot, log); err != nil {
		listener.Close()
		return err
	} else if registration != nil {
		answers.Consul = registration.State
		go func() {
			defer close(left)
			registration.Run(ctx)
		}()
	} else {
		close(left)
	}

	server := serve.Server(serve.Handler(answers))
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	failed := make(chan error, 2) // by sampling or serving
	go func() { failed <- server.Serve(listener) }()
	sampled := make(chan struct{})
	go func() {
		defer close(sampled)
		if err := sampler.Run(ctx); err != nil {
			failed <- err
		}
	}()
	log.Info("the agent runs", "version", version, "node", cfg.Node, "listen", listener.Addr().String())

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	stop()
	<-left // first: nobody is to be sent here any more
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = server.Shutdown(ctx) // requests that do not end are cut off
	select {
	case <-sampled:
	case <-ctx.Done():
		log.Warn("a call to the GPU driver hangs, ending without shutting it down")
	}
	if errors.Is(err, gpu.ErrReplaced) {
		return fmt.Errorf("%w; a new process loads the new one", err)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// asSeenBy takes back what only root can know. The driver may hide processes of
// other users, and those are the ones that nobody told Nomad about.
func asSeenBy(root bool, s fleet.Snapshot) fleet.Snapshot {
	if !root && s.Outside.Known {
		s.Outside.Known = false
		s.Outside.Why = "the agent does not run as root, so it may not see every process"
	}
	return s
}

// registrar makes the registration in Consul, or nil if there is to be none.
func registrar(cfg config, listener net.Listener, snapshot func() fleet.Snapshot, log *slog.Logger) (*register.Registration, error) {
	if cfg.Consul == "off" {
		return nil, nil
	}
	settings := consul.DefaultConfig() // with Consul's environment variables
	if cfg.Consul != "" {
		settings.Address = cfg.Consul
	}
	client, err := consul.NewClient(settings)
	if err != nil {
		return nil, fmt.Errorf("-consul %q: %w", cfg.Consul, err)
	}
	if cfg.port == 0 {
		cfg.port = listener.Addr().(*net.TCPAddr).Port
	}
	return register.New(register.Config{
		Consul:  client,
		Node:    cfg.Node,
		Version: version,
		Address: cfg.host,
		Port:    cfg.port,
		TTL:     cfg.TTL,
		Verdict: func() register.Verdict { return register.Judge(snapshot()) },
		Log:     log,
	}), nil
}
