// Package nvmltest is a fake of NVIDIA's management library that a file
// drives, so that the agent's real way to its GPUs (dlopen, symbol binding,
// the C calling convention) runs on machines without any. README.md has the
// format of the file.
package nvmltest

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

//go:embed csrc
var source embed.FS

// Soname is the file name under which programs look for the library.
const Soname = "libnvidia-ml.so.1"

// FileEnv and TraceEnv name the environment variables that steer the library.
const (
	FileEnv  = "FAKE_NVML_FILE"
	TraceEnv = "FAKE_NVML_TRACE"
)

// Without is the compiler argument that leaves a symbol out of the library,
// as an older driver would.
func Without(symbol string) string { return Rename(symbol, "left_out_"+symbol) }

// Rename is the compiler argument that exports one symbol under another name.
func Rename(from, to string) string { return "-D" + from + "=" + to }

// BuildTo compiles the library into dir and returns its path. args are given
// to the compiler; see [Without].
func BuildTo(dir string, args ...string) (string, error) {
	path := filepath.Join(dir, Soname)
	args = append([]string{"-shared", "-fPIC", "-Wl,-soname," + Soname}, args...)
	return path, compile("fake_nvml.c", path, args...)
}

// Build compiles the library for a test and returns its path. A machine
// without a C compiler fails the test: the agent cannot be built there either.
func Build(t testing.TB, args ...string) string {
	t.Helper()
	path, err := BuildTo(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Layout compiles and runs a program that prints, a line each, the size of
// every structure that the library answers with and the offset of every field.
func Layout(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "layout")
	if err := compile("layout.c", program); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program).Output()
	if err != nil {
		t.Fatalf("run %s: %v", program, err)
	}
	return string(out)
}

// compile compiles one of the sources.
func compile(unit, output string, args ...string) error {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if _, err := exec.LookPath(cc); err != nil {
		return fmt.Errorf("the fake NVML library needs a C compiler: %w (apt install gcc libc6-dev, or set CC)", err)
	}
	dir, err := os.MkdirTemp("", "fake-nvml-")
	if err != nil {
		return fmt.Errorf("fake NVML library: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.CopyFS(dir, source); err != nil {
		return fmt.Errorf("fake NVML library: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = append(args, "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-o", output,
		filepath.Join(dir, "csrc", unit))
	if out, err := exec.CommandContext(ctx, cc, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", unit, err, out)
	}
	return nil
}
