package nvmltest

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// State is the content of the file that drives the fake library: keys and
// values as README.md lists them.
type State map[string]string

// Limits of a state file, which the library shares.
const (
	maxStateBytes = 64 << 10
	maxLineBytes  = 4 << 10
)

// ParseState reads a state file. The last value of a key counts.
func ParseState(r io.Reader) (State, error) {
	s := State{}
	lines := bufio.NewScanner(io.LimitReader(r, maxStateBytes))
	lines.Buffer(nil, maxLineBytes)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, value := line, ""
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			key, value = line[:i], line[i:]
		}
		s[key] = strings.TrimSpace(value)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("fake NVML state: %w", err)
	}
	return s, nil
}

// GPU is the key of a GPU's property: GPU(0, "util") is "gpu0.util".
func GPU(index int, property string) string { return fmt.Sprintf("gpu%d.%s", index, property) }

// WriteFile puts the state at path by rename, so that a program that is
// using the library sees either the old state or the new one.
func (s State) WriteFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".fake-nvml-*")
	if err != nil {
		return fmt.Errorf("write fake NVML state: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // fails once renamed
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if _, err := fmt.Fprintf(f, "%s %s\n", key, s[key]); err != nil {
			return fmt.Errorf("write fake NVML state: %w", err)
		}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write fake NVML state: %w", err)
	}
	return os.Rename(f.Name(), path)
}
