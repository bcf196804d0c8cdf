package pluginhost

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	keepBackoff    = time.Second // before the first restart
	keepBackoffMax = time.Minute // doubling ends here
	keepForgives   = 10 * keepBackoffMax
)

// Keep runs f, and runs it again after a pause if it panics. It returns when f
// returns or ctx ends. A plugin starts its background loops with
//
//	go pluginhost.Keep(ctx, log, "reconcile", loop.Run)
//
// because a panic in a goroutine of its own would end the plugin for good. The
// pause is 1 s, doubled up to 1 min, and back to 1 s once f ran for 10 min.
// f must leave no lock held and no state half-written when it panics.
func Keep(ctx context.Context, log hclog.Logger, name string, f func(context.Context)) {
	var panics panicLog
	pause := keepBackoff
	for {
		began := time.Now()
		if runOnce(ctx, log, &panics, name, f) {
			return
		}
		if time.Since(began) >= keepForgives {
			pause = keepBackoff
		}
		log.Warn("background loop restarts after a bug", "loop", name, "in", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, keepBackoffMax)
	}
}

// runOnce reports whether f returned, rather than panicked.
func runOnce(ctx context.Context, log hclog.Logger, panics *panicLog, name string, f func(context.Context)) (returned bool) {
	defer func() {
		if p := recover(); p != nil {
			panics.report(log, name, p)
			returned = false
		}
	}()
	f(ctx)
	return true
}
