// Package record keeps the decision log: each decision of the strategy, with
// all that it rested on, so that it can be explained and made again later.
//
// # The file
//
// A decision log is JSON lines. Each opening of the file writes a header line,
// {"log":"gpupool-decisions","version":2,…}; every other line is a decision
// with its rules, its terms and the samples that are new since the line before
// it of the same stream. A stream is one check of one pool. From the samples
// of all lines the reader rebuilds the series that each decision saw: every
// file begins with whole series and stands alone.
//
// New samples replace what the log has from the first one's time on, so a
// source that revises its past is told right too. One that tells all of it
// anew at each query would fill the disk: past a budget only what is newer is
// written, and the entry is marked approximate.
//
// A line is at most 1 MiB; more samples than fit go ahead in lines without a
// decision. The last line of a file, or one before a header, may be torn by a
// kill: readers leave it out and say so. Any other mistake is an error that
// names file and line.
//
// # Writing
//
// [Log.Add] never waits: a goroutine writes, and where the disk is slower than
// the decisions, entries are dropped and counted in the next line. No
// decision ever fails for its log. A killed process loses at most what
// was queued, a few milliseconds; nothing is forced to disk, so that a machine
// that loses power loses the last seconds.
package record

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/gpupool/gpupool/internal/digits"
	"github.com/gpupool/gpupool/internal/plan"
	build "github.com/gpupool/gpupool/internal/version"
)

// Stream says whose decisions these are: one check of one pool.
type Stream struct {
	Pool  string // may be empty
	Check string // the check's name in the policy; may be empty
	Query string // what the check asks for; tells apart checks of one name
}

// Name is what people call the stream: the pool, or the check where the pool
// has no name.
func (s Stream) Name() string {
	if s.Pool != "" {
		return s.Pool
	}
	return s.Check
}

// Entry is one decision and what it rested on.
type Entry struct {
	Stream
	Input    plan.Input
	Rules    plan.Rules
	Decision plan.Decision
}

// Replayed is what became of a decision that was made again.
type Replayed struct {
	Decision plan.Decision
	// Same: to the byte of their JSON forms, all terms included, each with the
	// digits that are the same on any machine.
	Same bool
}

// Replay makes the decision again, from the input and the rules alone.
func (e Entry) Replay() (Replayed, error) {
	d := plan.Decide(e.Input, e.Rules)
	was, err := json.Marshal(encodeDecision(e.Decision))
	if err != nil {
		return Replayed{}, fmt.Errorf("recorded decision: %w", err)
	}
	is, err := json.Marshal(encodeDecision(d))
	if err != nil {
		return Replayed{}, fmt.Errorf("replayed decision: %w", err)
	}
	return Replayed{d, bytes.Equal(digits.Shorten(was), digits.Shorten(is))}, nil
}

// Program names this build of gpupool as well as the build knows.
func Program() string { return "gpupool " + build.String() }
