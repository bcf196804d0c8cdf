package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tools are the programs that a lab is made of, as absolute paths.
type Tools struct {
	Consul, Nomad, Autoscaler, DeviceFake, Host string
}

// findTools finds or builds the programs. The first time on a machine this
// takes about ten minutes, and progress is told how it goes.
func findTools(ctx context.Context, dir string, progress func(string)) (Tools, error) {
	root, err := Repository()
	if err != nil {
		return Tools{}, err
	}
	paths, err := buildTools(ctx, root, progress)
	if err != nil {
		return Tools{}, err
	}
	t := Tools{
		Consul:     paths["consul"],
		Nomad:      paths["nomad"],
		Autoscaler: paths["nomad-autoscaler"],
		DeviceFake: paths["gpupool-device-fake"],
		Host:       filepath.Join(dir, "bin", "host"),
	}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", t.Host, "./e2e/host")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return Tools{}, fmt.Errorf("lab: build e2e/host: %w: %s", err, out)
	}
	return t, nil
}

// buildTools runs e2e/tools/build.sh, which prints a name and a path a line.
func buildTools(ctx context.Context, root string, progress func(string)) (map[string]string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "e2e", "tools", "build.sh"))
	var found bytes.Buffer
	cmd.Stdout = &found
	talk, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("lab: tools: %w", err)
	}
	// A cancelled build ends in its own order.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("lab: tools: %w", err)
	}
	var last string
	lines := bufio.NewScanner(talk)
	for lines.Scan() {
		last = lines.Text()
		progress(last)
	}
	_, _ = io.Copy(io.Discard, talk) // a line too long for the scanner
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("lab: %s: %w: %s", cmd.Path, err, last)
	}
	paths := map[string]string{}
	for line := range strings.Lines(found.String()) {
		name, path, _ := strings.Cut(strings.TrimSpace(line), "\t")
		paths[name] = path
	}
	return paths, nil
}

// Repository is the root of the source tree that the working directory is in.
func Repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("lab: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "e2e", "tools", "build.sh")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("lab: not in a checkout of gpupool: no e2e/tools/build.sh in the working directory or above")
		}
		dir = parent
	}
}
