// Package devbin finds the programs that tests run against: on PATH first, if
// they are of the pinned version, then in the cache that `make tools` fills.
package devbin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Versions are the releases that the tests are written against. `make tools`
// builds these. The version of a tool of this repository is a hash of its
// source; it stands here as *, and the one built last is taken.
var Versions = map[string]string{
	"consul":              "1.22.7",
	"nomad":               "1.11.3",
	"nomad-autoscaler":    "0.5.0",
	"gpupool-device-fake": "*",
}

// failer is the part of testing.TB that is used here.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// Path returns the path of a binary named in Versions, or ends the test with
// what to do about its absence. It never skips: a test that needs Consul and
// did not get it has not passed.
func Path(t failer, name string) string {
	t.Helper()
	path, err := find(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func find(name string) (string, error) {
	version, ok := Versions[name]
	if !ok {
		return "", fmt.Errorf("devbin: %q is not one of the pinned tools", name)
	}
	if path, err := exec.LookPath(name); err == nil && says(path, version) {
		return filepath.Abs(path)
	}
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(dir, name+"-"+version, name)
	path := newest(pattern)
	if path == "" {
		return "", fmt.Errorf("no %s of version %s on PATH and none at %s: run `make tools`", name, version, pattern)
	}
	return path, nil
}

// says reports whether a program calls itself of a version. What `go build`
// makes of a release calls itself v1.2.3-dev.
func says(path, version string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(out), "\n")
	words := strings.Fields(first)
	return slices.Contains(words, "v"+version) || slices.Contains(words, "v"+version+"-dev")
}

// newest is the file matching the pattern that was changed last, or empty.
func newest(pattern string) string {
	paths, _ := filepath.Glob(pattern)
	var path string
	var changed time.Time
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.ModTime().After(changed) {
			path, changed = p, info.ModTime()
		}
	}
	return path
}

// Dir is the tools cache: $GPUPOOL_TOOLS, else gpupool/tools in the user's
// cache directory. Each tool lies in <name>-<version>/<name>.
func Dir() (string, error) {
	if dir := os.Getenv("GPUPOOL_TOOLS"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no tools cache: set GPUPOOL_TOOLS: %w", err)
	}
	return filepath.Join(cache, "gpupool", "tools"), nil
}
