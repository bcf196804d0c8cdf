package pluginhost

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestKeepRestartsAfterPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		Keep(t.Context(), hclog.NewNullLogger(), "loop", func(context.Context) {
			at = append(at, time.Since(began))
			switch len(at) {
			case 9:
				return
			case 8:
				time.Sleep(keepForgives)
			}
			panic("bug")
		})
		s := time.Second
		long := 123*s + keepForgives + s // forgiven: the pause is short again
		want := []time.Duration{0, s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 123 * s, long}
		if !slices.Equal(at, want) {
			t.Errorf("ran at %v, want %v", at, want)
		}
	})
}

func TestKeepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		Keep(ctx, hclog.NewNullLogger(), "loop", func(context.Context) { panic("always") })
		if ctx.Err() == nil {
			t.Error("Keep returned before its context ended")
		}
	})
}
