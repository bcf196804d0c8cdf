// Package pluginhost runs a Nomad Autoscaler plugin so that it outlives its
// own mistakes and never outlives its host.
//
// The autoscaler never restarts a plugin that died: every later call fails
// until the autoscaler itself is restarted. With the autoscaler's own
// plugins.Serve a plugin dies of a panic, a nil result or a write to a nil
// map; a killed autoscaler leaves it behind as an orphan that still holds
// credentials; and an error whose text contains "connection refused" or "EOF"
// makes the autoscaler stop every policy it has. [Serve] takes the place of
// plugins.Serve and closes those holes without the plugin taking part.
//
// Two things remain fatal, because Go offers no way to survive them: a panic
// in a goroutine that the plugin started by itself (start it with [Keep]), and
// errors that the runtime calls fatal, such as concurrent writes to a map.
//
// Upstream contract: github.com/hashicorp/nomad-autoscaler v0.5.0,
// plugins/plugin.go (Serve), policy/manager.go (the two error texts).
package pluginhost

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/nomad-autoscaler/plugins"
	"google.golang.org/grpc"
)

const (
	// maxReceive bounds one call. gRPC's default of 4 MiB is a series of
	// about 165,000 points, less than 28 days at ten-second steps.
	maxReceive = 256 << 20

	// exitGrace is what OnExit gets. The host kills a plugin 2 s after it
	// asked it to stop (go-plugin, Client.Kill), so it must be less.
	exitGrace = 1500 * time.Millisecond

	// exitLinger is how long the connection stays open after that when the
	// host is still there, so that the last answers get to it.
	exitLinger = 500 * time.Millisecond
)

// Config says what to serve.
type Config struct {
	// Name is the plugin's name. The autoscaler requires that it equals both
	// the file name of the binary and the driver in its configuration.
	Name string

	// Plugin is an apm.APM, a target.Target or a strategy.Strategy.
	Plugin any

	// Logger is where everything about the plugin's own life goes. The
	// default is NewLogger(Name).
	Logger hclog.Logger

	// OnExit, if not nil, runs once when the plugin stops, for whatever
	// reason short of SIGKILL. Its context ends after 1.5 s, and so does the
	// process soon after: give back leases and flush, nothing else. Calls
	// that are in flight are not waited for.
	OnExit func(ctx context.Context)
}

// Serve runs the plugin until the host asks it to stop, the host is gone, or
// SIGTERM arrives. It returns when OnExit has returned or its time is up, and
// ends the process by force if main then does not.
//
// The error is for a Config that cannot be served. A process that was not
// started by an autoscaler prints what it is and exits with status 1, as
// go-plugin does.
func Serve(cfg Config) error {
	if cfg.Logger == nil {
		cfg.Logger = NewLogger(cfg.Name)
	}
	set, err := guardedSet(cfg.Name, cfg.Plugin)
	if err != nil {
		return err
	}
	s := &server{
		name:     cfg.Name,
		log:      cfg.Logger,
		onExit:   cfg.OnExit,
		stopping: make(chan struct{}),
		host:     newHostWatch(time.Now(), os.Getppid()),
	}
	if file := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe"); file != cfg.Name {
		s.log.Warn("the autoscaler refuses a plugin whose file has another name than the plugin; rename the file and set driver to that name",
			"file", file, "name", cfg.Name)
	}

	// A terminal that closes sends SIGHUP to the whole process group. The
	// autoscaler reloads on it; the plugin must not die of it.
	signal.Ignore(syscall.SIGHUP)
	// With the host gone, stderr has no reader. Without this the first line
	// logged about that would kill the process before OnExit ran.
	signal.Ignore(syscall.SIGPIPE)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	defer signal.Stop(term)
	go s.awaitEnd(term)

	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugins.Handshake,
		Plugins:         set,
		Logger:          s.log,
		GRPCServer:      s.newGRPC,
	})
	s.stop("the autoscaler asked the plugin to stop")
	return nil
}

// server is the life of one served plugin.
type server struct {
	name   string
	log    hclog.Logger
	onExit func(context.Context)
	host   *hostWatch
	panics panicLog

	stopping chan struct{} // closed when the end has begun
	stopOnce sync.Once

	mu     sync.Mutex
	grpc   *grpc.Server
	closed bool
}

// newGRPC makes the server that go-plugin registers the services on.
func (s *server) newGRPC(opts []grpc.ServerOption) *grpc.Server {
	opts = append(opts,
		grpc.MaxRecvMsgSize(maxReceive),
		grpc.UnaryInterceptor(s.intercept),
		grpc.StatsHandler(s.host),
	)
	srv := grpc.NewServer(opts...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grpc = srv
	if s.closed { // SIGTERM came before go-plugin got here
		srv.Stop()
	}
	return srv
}

// awaitEnd waits for one of the two ends that go-plugin does not know of:
// SIGTERM, which it leaves to its default, and a host that is gone.
func (s *server) awaitEnd(term <-chan os.Signal) {
	tick := time.NewTicker(hostWatchInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.stopping:
			return
		case <-term:
			s.stop("SIGTERM")
			time.Sleep(exitLinger)
		case now := <-tick.C:
			why := s.host.gone(now, os.Getppid())
			if why == "" {
				continue
			}
			s.stop(why)
		}
		s.closeGRPC()
		return
	}
}

// stop ends the plugin in order: calls in flight and new ones are answered
// with a readable error, then OnExit runs. The connection stays up until the
// caller closes it, because a host whose call breaks off reads "EOF" and stops
// all its policies. stop returns when all that is done, to every caller.
func (s *server) stop(why string) {
	s.stopOnce.Do(func() {
		close(s.stopping)
		time.AfterFunc(exitGrace+2*exitLinger, func() { os.Exit(1) })
		s.log.Info("plugin stops", "reason", why)
		if s.onExit == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), exitGrace)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					s.panics.report(s.log, "OnExit", p)
				}
			}()
			s.onExit(ctx)
		}()
		select {
		case <-done:
		case <-ctx.Done():
			s.log.Warn("plugin did not finish in time what it does on exit", "limit", exitGrace)
		}
	})
}

func (s *server) closeGRPC() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.grpc != nil {
		s.grpc.Stop()
	}
}

// errStopping answers calls that come, or are in flight, when the end began.
func (s *server) errStopping() error {
	return fmt.Errorf("%s is stopping", s.name)
}
