package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pages are the reference pages of commands that are not called like them.
var pages = map[string]string{"power": "power-command"}

// tabled are the commands whose page has a table of all flags. Those that try
// policies share their flags, and say them once.
var tabled = []string{"status", "top", "host", "plan", "check", "power", "off", "explain"}

// TestEveryFlagIsDocumented: each such command has a page, with each of its
// flags and subcommands, and with no flag that there is not.
func TestEveryFlagIsDocumented(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		name := cmd.Name()
		if !slices.Contains(tabled, name) {
			continue
		}
		page := name
		if other, ok := pages[name]; ok {
			page = other
		}
		text, err := os.ReadFile(filepath.Join("../../docs/reference", page+".md"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		known := map[string]bool{}
		for _, c := range append(cmd.Commands(), cmd) {
			c.Flags().VisitAll(func(f *pflag.Flag) {
				known["--"+f.Name] = true
				if !strings.Contains(string(text), "`--"+f.Name) {
					t.Errorf("%s: --%s is not on its page", name, f.Name)
				}
			})
			if c != cmd && !strings.Contains(string(text), "`gpupool "+name+" "+c.Name()) {
				t.Errorf("%s: %s is not on its page", name, c.Name())
			}
		}
		for line := range strings.Lines(string(text)) {
			if flag, ok := strings.CutPrefix(line, "| `--"); ok {
				flag, _, _ = strings.Cut(flag, "`")
				if flag, _, _ = strings.Cut(flag, " "); !known["--"+flag] {
					t.Errorf("%s: its page has --%s, which there is not", name, flag)
				}
			}
		}
	}
}

// TestUsageIsWhole: each command says what it does, in the manner of the rest.
func TestUsageIsWhole(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its short text is %q", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newRoot())
}
