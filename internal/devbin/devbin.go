// Package devbin finds the HashiCorp binaries that tests run against: on PATH
// first, then in the cache that `make tools` fills.
package devbin

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// failer is the part of testing.TB that Path uses.
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
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	pattern := filepath.Join(dir, name+"-"+version, name)
	path := newest(pattern)
	if path == "" {
		return "", fmt.Errorf("no %s on PATH and none at %s: run `make tools`", name, pattern)
	}
	return path, nil
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
