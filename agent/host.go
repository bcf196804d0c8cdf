package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	consul "github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/agent/gpu"
	"github.com/gpupool/gpupool/agent/nvml"
	"github.com/gpupool/gpupool/agent/proc"
	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/mtls"
)

// patience is how long an ending agent waits for the driver. A call that
// hangs is left behind: nothing can cancel it.
const patience = 2 * time.Second

// serveHost runs the agent until ctx ends, or until it must be started anew.
// Sampling, HTTP and heart-beats each go on whatever the others do.
func serveHost(ctx context.Context, cfg config, log *slog.Logger) error {
	listener, err := listen(ctx, cfg, log)
	if err != nil {
		return err
	}
	sampler := gpu.New(gpu.Config{
		Driver: nvml.New(cfg.NVML),
		Owner:  proc.New("/proc").Owner,
		Period: cfg.Period,
		Log:    log,
	})
	snapshot := describe(sampler, cfg.Node, log)
	lately := recent(snapshot, min(cfg.Period/2, time.Second/2))
	servers, err := watchInstances(cfg, lately, log)
	if err != nil {
		_ = listener.Close()
		return err
	}
	notices, leaver, err := watchNotices(cfg, servers, log)
	if err != nil {
		_ = listener.Close()
		return err
	}
	teller, err := tellNomad(cfg, lately, log)
	if err != nil {
		_ = listener.Close()
		return err
	}
	snapshot = servers.describe(snapshot)
	registration, err := registrar(cfg, listener, lately, log)
	if err != nil {
		_ = listener.Close()
		return err
	}
	answers := serve.Config{Snapshot: snapshot, Token: cfg.bearer(log), Aliases: cfg.Aliases}
	if registration != nil {
		answers.Consul = registration.State
	}
	servers.answer(&answers)
	answers.Off = cfg.off.handler(cfg.Node, snapshot, log)
	server := serve.Server(serve.Handler(answers))
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)

	ctx, stop := context.WithCancelCause(ctx)
	registered := background(func() {
		if registration != nil {
			registration.Run(ctx)
		}
	})
	watched := background(func() { servers.run(ctx) })
	if notices != nil {
		background(func() { notices.Run(ctx) })
		background(func() { leaver.Run(ctx) })
	}
	if teller != nil {
		background(func() { teller.Run(ctx) })
	}
	sampled := background(func() {
		if err := sampler.Run(ctx); err != nil {
			stop(fmt.Errorf("%w; a new process loads the new one", err))
		}
	})
	background(func() { stop(server.Serve(listener)) })
	log.Info("the agent runs", "version", version, "node", cfg.Node, "listen", listener.Addr().String())

	<-ctx.Done()
	log.Info("the agent ends", "why", context.Cause(ctx))
	<-registered // first: nobody is to be sent here any more
	<-watched
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	_ = server.Shutdown(grace) // requests that do not end are cut off
	select {
	case <-sampled:
	case <-grace.Done():
		log.Warn("a call to the GPU driver hangs, ending without shutting it down")
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // by a signal
}

// listen listens where the agent serves, with TLS if it is to.
func listen(ctx context.Context, cfg config, log *slog.Logger) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w (another agent on this host? -listen chooses another address)", err)
	}
	if !cfg.TLS.Given() {
		return listener, nil
	}
	settings, err := mtls.Server(cfg.TLS, log)
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return tls.NewListener(listener, settings), nil
}

// background runs f in a goroutine, and closes done when it returns.
func background(f func()) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	return ended
}

// describe adds to what is sampled who samples it.
func describe(sampler *gpu.Sampler, node string, log *slog.Logger) (snapshot func() fleet.Snapshot) {
	root := os.Geteuid() == 0
	if !root {
		log.Warn("the agent does not run as root: it cannot tell whether GPUs are busy outside Nomad")
	}
	started := time.Now()
	return func() fleet.Snapshot {
		now := time.Now()
		s := asSeenBy(root, sampler.Snapshot(now))
		s.Node = node
		s.Agent = fleet.Agent{Version: version, Uptime: now.Sub(started).Round(time.Millisecond).Seconds()}
		return s
	}
}

// recent is what was seen at most so long ago, for those who look for the state
// of a GPU and not for how old a value is. All get the same one, and change
// nothing in it.
func recent(snapshot func() fleet.Snapshot, age time.Duration) func() fleet.Snapshot {
	var mu sync.Mutex
	var last fleet.Snapshot
	return func() fleet.Snapshot {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last.At) >= age {
			last = snapshot()
		}
		return last
	}
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
	client, err := consulClient(cfg)
	if client == nil || err != nil {
		return nil, err
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

// consulClient is a client of the Consul agent on this host, nil if there is to
// be none.
func consulClient(cfg config) (*consul.Client, error) {
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
	return client, nil
}
