package main

import (
	"testing"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/live"
)

// TestActor: the host of whoever acts is spared in a plan as in the loop.
func TestActor(t *testing.T) {
	p := inventory.Pool{Hosts: []inventory.Host{{ID: "gpu-1", Node: "a"}, {ID: "gpu-2", Node: "b"}}}
	for self, want := range map[string]live.Own{"gpu-2": {Node: "b"}, "": {}, "gone": {}} {
		if got := actor(consul.Status{Self: self}, p); got != want {
			t.Errorf("%q: got %+v, want %+v", self, got, want)
		}
	}
}
