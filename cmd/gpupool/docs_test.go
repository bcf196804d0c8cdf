package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pages are the reference pages of commands that are not called like them.
var pages = map[string]string{"power": "power-command"}

// worlds are the commands that describe a world with the flags of simulate.
// Those are on its page alone, to which theirs links.
var worlds = []string{"advise", "tune"}

// TestEveryFlagIsDocumented: each command has a page, with each of its flags and
// subcommands, and with no flag that there is not.
func TestEveryFlagIsDocumented(t *testing.T) {
	commands := newRoot().Commands()
	known := map[string]map[string]bool{} // flags by command
	for _, cmd := range commands {
		known[cmd.Name()] = map[string]bool{}
		for _, c := range append(cmd.Commands(), cmd) {
			c.Flags().VisitAll(func(f *pflag.Flag) { known[cmd.Name()]["--"+f.Name] = true })
		}
	}
	for _, cmd := range commands {
		name := cmd.Name()
		page := name
		if other, ok := pages[name]; ok {
			page = other
		}
		text, err := os.ReadFile(filepath.Join("../../docs/reference", page+".md"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		said := flagsSaid(string(text))
		for flag := range known[name] {
			shared := slices.Contains(worlds, name) && known["simulate"][flag] && strings.Contains(string(text), "](simulate.md")
			if !said[flag] && !shared {
				t.Errorf("%s: %s is not on its page", name, flag)
			}
		}
		for _, c := range cmd.Commands() {
			if !strings.Contains(string(text), "`gpupool "+name+" "+c.Name()) {
				t.Errorf("%s: %s is not on its page", name, c.Name())
			}
		}
		for line := range strings.Lines(string(text)) {
			if cell, ok := strings.CutPrefix(line, "| `--"); ok {
				cell, _, _ = strings.Cut(cell, " |")
				for flag := range flagsSaid("`--" + cell) {
					if !known[name][flag] {
						t.Errorf("%s: its page has %s, which there is not", name, flag)
					}
				}
			}
		}
	}
}

// flag is one in a code span.
var flag = regexp.MustCompile("`(--[a-z-]+)[`= ]")

func flagsSaid(text string) map[string]bool {
	said := map[string]bool{}
	for _, m := range flag.FindAllStringSubmatch(text, -1) {
		said[m[1]] = true
	}
	return said
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
