package devbin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFindLooksOnPathFirst(t *testing.T) {
	onPath, cache := t.TempDir(), t.TempDir()
	t.Setenv("PATH", onPath)
	t.Setenv("GPUPOOL_TOOLS", cache)

	if _, err := find("consul"); err == nil || !strings.Contains(err.Error(), "make tools") {
		t.Fatalf("with no consul anywhere: got error %v, want one that says `make tools`", err)
	}
	cached := executable(t, filepath.Join(cache, "consul-"+Versions["consul"], "consul"))
	if got, err := find("consul"); err != nil || got != cached {
		t.Fatalf("with consul in the cache: got %q, %v", got, err)
	}
	first := executable(t, filepath.Join(onPath, "consul"), "Consul v1.2.3")
	if got, err := find("consul"); err != nil || got != cached {
		t.Fatalf("with another version on PATH: got %q, %v", got, err)
	}
	executable(t, first, "Consul v"+Versions["consul"]+"-dev")
	if got, err := find("consul"); err != nil || got != first {
		t.Fatalf("with consul on PATH too: got %q, %v", got, err)
	}
	if _, err := find("vault"); err == nil {
		t.Fatal("a tool without a pinned version was accepted")
	}
}

func TestFindTakesTheToolBuiltLast(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	t.Setenv("GPUPOOL_TOOLS", cache)
	latest := ""
	for i, version := range []string{"0f", "ab", "12"} {
		path := executable(t, filepath.Join(cache, "gpupool-device-fake-"+version, "gpupool-device-fake"))
		built := time.Now().Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(path, built, built); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			latest = path
		}
	}
	if got, err := find("gpupool-device-fake"); err != nil || got != latest {
		t.Errorf("got %q, %v; want %q", got, err, latest)
	}
}

// executable makes a program that prints some lines.
func executable(t *testing.T, path string, lines ...string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+strings.Join(lines, "\n")+"'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
