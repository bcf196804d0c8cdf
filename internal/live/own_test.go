package live

import (
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/control"
	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/pool"
)

// TestOwnNode: where a process runs is what it was told, else what Nomad says
// of its allocation, else the name of the machine.
func TestOwnNode(t *testing.T) {
	nc, err := nomad.New(nomad.Config{API: &api.Config{Address: "http://127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		own  Own
		want string
		told int // times that it is said not to be known
	}{
		{Own{Node: "gpu-1", Alloc: "a", Host: "ctl"}, "gpu-1", 0},
		{Own{Host: "ctl"}, "ctl", 0},
		{Own{Alloc: "a", Host: "ctl"}, "ctl", 1}, // Nomad is away
		{Own{}, "", 0},
	} {
		log, said := newLog()
		s := NewSite(SiteConfig{Nomad: nc, Own: tt.own, Log: log})
		for range 3 {
			if got := s.ownNode(t.Context()); got != tt.want {
				t.Errorf("%+v is on %q, want %q", tt.own, got, tt.want)
			}
		}
		if n := said.count("own_node"); n != tt.told {
			t.Errorf("%+v: said %d times that it is not known, want %d:\n%s", tt.own, n, tt.told, said)
		}
	}
}

// TestStatusTellsTheOwnHost: who looks at the pool from elsewhere must know
// which host is spared.
func TestStatusTellsTheOwnHost(t *testing.T) {
	log, _ := newLog()
	s := newTeller(log).status(control.Report{Snapshot: pool.Snapshot{Hosts: []pool.View{
		{Host: pool.Host{ID: "gpu-1"}}, {Host: pool.Host{ID: "gpu-2"}, Seen: pool.Seen{Self: true}},
	}}})
	if s.Self != "gpu-2" {
		t.Errorf("got %q", s.Self)
	}
}
