package power_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

// A clock that is told to the second, over a network that takes its time, is
// told of only if it must be apart.
func TestApartFinding(t *testing.T) {
	asked := time.Date(2026, 11, 22, 12, 0, 0, 900_000_000, time.UTC)
	for _, c := range []struct {
		name  string
		date  time.Duration // after asked's second
		took  time.Duration
		level power.Level
		says  string
	}{
		{"the same", 0, 0, power.Good, "not seen to be more than 3s apart"},
		{"three behind", -3 * time.Second, 0, power.Good, ""},
		{"ten behind", -10 * time.Second, 0, power.Warning, "the clock of X is 10s behind"},
		{"ten behind, by a slow answer", -10 * time.Second, 8 * time.Second, power.Warning, "10s behind"},
		{"four ahead", 4 * time.Second, 0, power.Warning, "the clock of X is 3s ahead"},
		{"five ahead, or the answer was slow", 5 * time.Second, 2 * time.Second, power.Good, ""},
		{"of 1970", -asked.Sub(time.Unix(0, 0)), 0, power.Warning, "behind"},
	} {
		f := power.ApartFinding("the clock of X", asked.Truncate(time.Second).Add(c.date), asked, asked.Add(c.took))
		if f.Level != c.level || !strings.Contains(f.What, c.says) || (f.Level == power.Good) != (f.Mend == "") {
			t.Errorf("%s: %+v, want %s: %q", c.name, f, c.level, c.says)
		}
	}
}
