package setting

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

// Problem is one mistake in a configuration: where it is, what is wrong and
// how to mend it.
type Problem struct {
	File    string // may be empty
	Line    int    // 0 if not known
	Subject string // `pool "h100"`, "target-gpupool"
	Key     string // may be empty
	What    string
	Mend    string // may be empty
}

// Error reads: pools.hcl:12: pool "h100": poll: "10" has no unit; write "10s".
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	for _, part := range []string{p.Subject, p.Key} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	b.WriteString(p.What)
	if p.Mend != "" {
		b.WriteString("; " + p.Mend)
	}
	return b.String()
}

// Problems are all mistakes of a configuration. As an error it has one line
// for each.
type Problems []Problem

// shown bounds the lines of an error: past that it is one mistake repeated.
const shown = 50

func (ps Problems) Error() string {
	if len(ps) == 1 {
		return ps[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d mistakes:", len(ps))
	for i, p := range ps {
		if i == shown {
			fmt.Fprintf(&b, "\n  and %d more", len(ps)-shown)
			break
		}
		b.WriteString("\n  " + p.Error())
	}
	return b.String()
}

// Err returns the problems as an error, sorted by place and without
// repetitions, or nil if there are none.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	out := slices.Clone(ps)
	slices.SortStableFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	seen := make(map[Problem]bool)
	out = slices.DeleteFunc(out, func(p Problem) bool {
		again := seen[p]
		seen[p] = true
		return again
	})
	return out
}

// Suggest says which of the known words was probably meant, or lists them.
func Suggest(word string, known []string) string {
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	best, distance := "", max(1, min(len(word)/3, 6))+1
	candidates := known
	if len(word) > 100 { // no slip of the pen
		candidates = nil
	}
	for _, k := range candidates {
		plain := strings.ToLower(strings.ReplaceAll(k, "-", "_"))
		if d := levenshtein.Distance(word, plain, nil); d < distance {
			best, distance = k, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(known) == 0:
		return "take it out"
	default:
		known = slices.Clone(known)
		slices.Sort(known)
		return "known are " + strings.Join(known, ", ")
	}
}

// Markdown prints fields as a table for a reference page.
func Markdown(fields []Field) string {
	var b strings.Builder
	b.WriteString("| Key | Value | Default | What it does |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ").Replace
	for _, f := range fields {
		def := "none"
		switch {
		case f.Required:
			def = "required"
		case f.defaultInWords:
			def = f.Default
		case f.Default != "":
			def = "`" + f.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Key, cell(f.want()), cell(def), cell(f.Doc))
	}
	return b.String()
}

// Split takes an error that is made of several (errors.Join) apart: nothing for
// nil, and an error that is no such thing as it is.
func Split(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // one that wraps a join has words of its own
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, Split(e)...)
	}
	return out
}
