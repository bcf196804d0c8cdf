package command

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/gpupool/gpupool/internal/power"
)

// Audit tells whether others could change the programs, which run with the
// rights of the autoscaler and are given the password. It runs nothing.
func (d *Driver) Audit(context.Context) []power.Finding {
	var found []power.Finding
	seen := make(map[string]bool)
	for _, what := range slices.Sorted(maps.Keys(d.config.argv)) {
		argv := d.config.argv[what]
		if len(argv) == 0 || seen[argv[0]] {
			continue
		}
		seen[argv[0]] = true
		f := power.Finding{About: "program", What: argv[0] + " is there"}
		info, err := os.Stat(argv[0])
		switch {
		case err != nil:
			f = power.Finding{Level: power.Wrong, About: "program", What: err.Error(), Mend: "correct " + string(what)}
		case info.Mode().Perm()&0o022 != 0:
			f = power.Finding{Level: power.Wrong, About: "program",
				What: fmt.Sprintf("%s can be changed by others (mode %04o), and runs with the rights of the autoscaler", argv[0], info.Mode().Perm()),
				Mend: "run: chmod go-w " + argv[0]}
		}
		found = append(found, f)
	}
	return found
}

var _ power.Auditor = (*Driver)(nil)
