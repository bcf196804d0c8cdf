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
	"strings"
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

// Rename is the compiler argument that exports one symbol under another name.
func Rename(from, to string) string { return "-D" + from + "=" + to }

// OldDriver are symbols that NVIDIA's R440 branch of 2020 lacks: it knows of no
// MIG, no replaced rows, no performance monitors and no fabric.
var OldDriver = []string{
	"nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons", "nvmlEventSetWait_v2",
	"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2",
	"nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2", "nvmlDeviceGetMPSComputeRunningProcesses",
	"nvmlDeviceGetRemappedRows", "nvmlDeviceGetGpuFabricInfo", "nvmlDeviceGetGpuFabricInfoV",
	"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleFree", "nvmlGpmSampleGet", "nvmlGpmMigSampleGet", "nvmlGpmMetricsGet",
	"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex",
	"nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId",
}

// BuildTo compiles the library into dir and returns its path. args are given
// to the compiler.
func BuildTo(dir string, args ...string) (string, error) {
	path := filepath.Join(dir, Soname)
	args = append([]string{"-shared", "-fPIC", "-Wl,-soname," + Soname}, args...)
	return path, compile("csrc/fake_nvml.c", path, args...)
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

// Lacking compiles the library once, and returns what links it without some of
// its symbols, as older drivers' are.
func Lacking(t testing.TB) func(symbols ...string) (path string) {
	t.Helper()
	object := filepath.Join(t.TempDir(), "fake_nvml.o")
	if err := compile("csrc/fake_nvml.c", object, "-c", "-fPIC"); err != nil {
		t.Fatal(err)
	}
	return func(symbols ...string) string {
		dir := t.TempDir()
		script := filepath.Join(dir, "hidden")
		text := "{ global: *; local: " + strings.Join(symbols, "; ") + "; };\n"
		if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, Soname)
		if err := cc("-shared", "-Wl,-soname,"+Soname, "-Wl,--version-script="+script, "-o", path, object); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// Layout compiles and runs a program that prints, a line each, the size of
// every structure that the library answers with and the offset of every field.
func Layout(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "layout")
	if err := compile("csrc/layout.c", program); err != nil {
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
	dir, err := os.MkdirTemp("", "fake-nvml-")
	if err != nil {
		return fmt.Errorf("fake NVML library: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.CopyFS(dir, source); err != nil {
		return fmt.Errorf("fake NVML library: %w", err)
	}
	return cc(append(args, "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-o", output, filepath.Join(dir, unit))...)
}

// cc runs the C compiler.
func cc(args ...string) error {
	name := os.Getenv("CC")
	if name == "" {
		name = "cc"
	}
	if _, err := exec.LookPath(name); err != nil {
		return fmt.Errorf("the fake NVML library needs a C compiler: %w (apt install gcc libc6-dev, or set CC)", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
