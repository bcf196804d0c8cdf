package health_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/agent/health"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "write the generated part of the reference page")

// TestReference keeps docs/reference/gpu-health.md in step with the rules.
func TestReference(t *testing.T) {
	var b strings.Builder
	b.WriteString("| XID | class | meaning |\n|---|---|---|\n")
	for _, r := range health.Rules {
		fmt.Fprintf(&b, "| %d | `%s` | %s |\n", r.XID, r.Class, r.What)
	}
	b.WriteString("| any other | `unknown` | " + health.Find(-1).What + " |\n")
	b.WriteString("\n## Reasons for lowered clocks\n\nNVML's, by their bits. A bit that the agent does not know is `bit_N`.\n\n| reason | bit | slow | meaning |\n|---|---|---|---|\n")
	for _, r := range fleet.ThrottleReasons {
		fmt.Fprintf(&b, "| `%s` | %#x | %s | %s |\n", r.Name, r.Mask, map[bool]string{true: "yes"}[r.Slow], r.What)
	}
	if err := setting.CheckPage("../../docs/reference/gpu-health.md", b.String(), *update); err != nil {
		t.Error(err)
	}
}
