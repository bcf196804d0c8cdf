package wol

import (
	"context"

	"github.com/gpupool/gpupool/internal/power"
)

// Audit tells whether magic packets can leave this machine, and what is to be
// said of the programs. It sends nothing and runs nothing.
func (d *Driver) Audit(ctx context.Context) []power.Finding {
	found := d.Driver.Audit(ctx)
	if d.device == "" {
		return append(found, power.Finding{About: "magic packet", What: "goes to " + d.to})
	}
	to, err := broadcastOf(d.device)
	if err != nil {
		return append(found, power.Finding{Level: power.Wrong, About: "magic packet", What: "cannot leave interface " + d.device + ": " + err.Error(),
			Mend: "correct interface, or bring it up with an IPv4 address"})
	}
	return append(found, power.Finding{About: "magic packet", What: "goes to " + to.String() + " through " + d.device})
}

var _ power.Auditor = (*Driver)(nil)
