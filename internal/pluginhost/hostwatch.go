package pluginhost

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
)

const (
	hostWatchInterval = 250 * time.Millisecond

	// hostReconnects is how long a host that is alive may be without a
	// connection. go-plugin keeps one open for its whole life and gRPC
	// repairs it within a second.
	hostReconnects = 5 * time.Second

	// hostConnects is how long a host may take to connect for the first
	// time. It kills a plugin that takes a minute to start.
	hostConnects = 2 * time.Minute
)

// hostWatch knows whether the autoscaler that started this plugin is still
// there. An autoscaler that is killed does not take its plugins along, and an
// orphan would go on acting beside its successor.
//
// There are two signs. The parent process changes when the parent ends; that
// is enough, unless something stands between the host and the plugin (a
// wrapper script, another PID namespace). The host's connection ends when the
// host does; that is enough, once it had one. PR_SET_PDEATHSIG is not used: it
// fires when the thread that started us ends, which in a Go host need not be
// the end of the process.
type hostWatch struct {
	parent int // process id of the parent at start

	mu        sync.Mutex
	conns     int       // open connections
	connected bool      // there was one
	lostAt    time.Time // since when there is none
}

func newHostWatch(now time.Time, parent int) *hostWatch {
	return &hostWatch{parent: parent, lostAt: now}
}

// gone says why the host is taken for gone, or nothing if it is not.
func (h *hostWatch) gone(now time.Time, parent int) string {
	if parent != h.parent {
		return fmt.Sprintf("the autoscaler (pid %d) is gone", h.parent)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	limit := hostConnects
	if h.connected {
		limit = hostReconnects
	}
	if h.conns == 0 && now.Sub(h.lostAt) >= limit {
		return fmt.Sprintf("no autoscaler was connected for %s", limit)
	}
	return ""
}

// HandleConn counts connections. It implements [stats.Handler].
func (h *hostWatch) HandleConn(_ context.Context, s stats.ConnStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch s.(type) {
	case *stats.ConnBegin:
		h.conns++
		h.connected = true
	case *stats.ConnEnd:
		h.conns--
		h.lostAt = time.Now()
	}
}

// TagConn implements [stats.Handler].
func (h *hostWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC implements [stats.Handler].
func (h *hostWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements [stats.Handler].
func (h *hostWatch) HandleRPC(context.Context, stats.RPCStats) {}
