package live

import (
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad"
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
