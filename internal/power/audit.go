package power

import (
	"context"
	"fmt"
	"time"
)

// Auditor is a driver that can tell what is right and wrong with its
// controller, for `gpupool check`. It changes nothing there, and logs in as
// often as a reading of the power does.
type Auditor interface {
	// Audit looks. What could not be found out is left out, or a finding of
	// its own where that matters. It returns soon after the context ends.
	Audit(ctx context.Context) []Finding
}

// Finding is one thing that an audit found.
type Finding struct {
	Level Level
	About string // a word or two: "cipher suite 0", "certificate"
	What  string // what was found
	Mend  string // what to do about it; empty where nothing is to be done
}

// Level is how good or bad a finding is.
type Level int

// The levels.
const (
	Good    Level = iota // as it should be
	Warning              // works, and should not stay
	Wrong                // unsafe, or does not work
)

func (l Level) String() string { return [...]string{"ok", "warning", "WRONG"}[l] }

// maxSkew is how far a clock may be off before it is told.
const maxSkew = 5 * time.Minute

// ClockFinding judges a clock that was read. A log of a power failure is worth
// little by a wrong one.
func ClockFinding(whose string, theirs, ours time.Time) Finding {
	const about = "clock"
	skew := theirs.Sub(ours).Round(time.Second)
	switch {
	case theirs.Year() < 2000:
		return Finding{Warning, about, fmt.Sprintf("%s is not set: it says %s", whose, theirs.UTC().Format(time.DateOnly)), "set it to UTC, by NTP"}
	case skew.Abs() > maxSkew:
		return Finding{Warning, about, fmt.Sprintf("%s is %s off", whose, skew), "set it to UTC, by NTP"}
	}
	return Finding{About: about, What: fmt.Sprintf("%s is %s off", whose, skew)}
}

// maxApart is how far the clocks of machines may be apart that tell each other
// times: when a host was last seen, until when a lease or a token is good.
const maxApart = 3 * time.Second

// ApartFinding judges a clock that a service told to the second, as HTTP's Date
// does, when it was asked between two moments of ours.
func ApartFinding(whose string, date, asked, answered time.Time) Finding {
	const about, mend = "clock", "set both by NTP; chronyc tracking, or timedatectl, tells which is wrong"
	ahead, behind := date.Sub(answered), asked.Sub(date.Add(time.Second)) // at least, each
	switch {
	case ahead > maxApart:
		return Finding{Warning, about, fmt.Sprintf("%s is %s ahead of this machine's", whose, ahead.Round(time.Second)), mend}
	case behind > maxApart:
		return Finding{Warning, about, fmt.Sprintf("%s is %s behind this machine's", whose, behind.Round(time.Second)), mend}
	}
	return Finding{About: about, What: fmt.Sprintf("%s and this machine's are not seen to be more than %s apart", whose, maxApart)}
}
