package live

import (
	"testing"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/fleet"
)

// TestOneNameOfTheAgents: the agents register under the name that the target
// looks for. Neither of the two packages may know the other.
func TestOneNameOfTheAgents(t *testing.T) {
	if fleet.Service != consul.AgentService {
		t.Errorf("agents register as %q, and are looked for as %q", fleet.Service, consul.AgentService)
	}
}
