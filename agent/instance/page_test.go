package instance

import (
	"flag"
	"testing"

	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "rewrite the generated part of the reference pages")

func TestReferencePage(t *testing.T) {
	if err := setting.CheckPage("../../docs/reference/model-servers.md", page(), *update); err != nil {
		t.Error(err)
	}
	if len(states) != len(fleet.InstanceStates) {
		t.Fatalf("%d states are described, there are %d", len(states), len(fleet.InstanceStates))
	}
	for i, s := range states {
		if s.State != fleet.InstanceStates[i] {
			t.Errorf("state %d is described as %s, and is %s", i, s.State, fleet.InstanceStates[i])
		}
	}
}
