// Package board prints how pools stand, as a table for people.
package board

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
)

// Pool is what there is to show of one pool. What is not known is nil.
type Pool struct {
	Name   string
	Want   *consul.Want
	Status *consul.Status
	Demand *Demand
	Words  map[string]pool.Said  // what operators said, by host
	Times  map[string]pool.Times // how long hosts take, by class
}

// Demand is what jobs ask for, in GPUs.
type Demand struct{ Allocated, Queued int }

// Print writes a pool's headline and its hosts. Ages are as of now.
func Print(w io.Writer, p Pool, now time.Time) error {
	fmt.Fprintf(w, "pool %s   %s\n", p.Name, headline(p))
	if p.Want != nil && p.Want.Reason != "" {
		fmt.Fprintf(w, "  because %s\n", p.Want.Reason)
	}
	if p.Status == nil {
		_, err := fmt.Fprintln(w, "  no process has acted on it yet")
		return err
	}
	if p.Status.Note != "" {
		fmt.Fprintf(w, "  note: %s\n", p.Status.Note)
	}
	if err := printHosts(w, p.Status.Hosts, now); err != nil {
		return err
	}
	if p.Status.Omitted > 0 {
		fmt.Fprintf(w, "  and %d hosts more\n", p.Status.Omitted)
	}
	printWords(w, p.Words, now)
	printTimes(w, p.Times)
	_, err := fmt.Fprintf(w, "  seen %s ago by %s\n", Age(now.Sub(p.Status.At)), p.Status.Holder)
	return err
}

// printHosts prints a line for each host, with its class where there are any.
func printHosts(w io.Writer, hosts []consul.HostStatus, now time.Time) error {
	classes := slices.ContainsFunc(hosts, func(h consul.HostStatus) bool { return h.Class != "" })
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	class := func(name string) string {
		if !classes {
			return ""
		}
		return name + "\t"
	}
	fmt.Fprintf(t, "  HOST\t%sPOWER\tPHASE\tFOR\tGPUS BUSY\tWHY\n", class("CLASS"))
	for _, h := range hosts {
		fmt.Fprintf(t, "  %s\t%s%s\t%s\t%s\t%s\t%s\n", h.ID, class(h.Class), h.Power, h.Phase, Age(now.Sub(h.Since)), busy(h), h.Why)
	}
	return t.Flush()
}

// printWords prints what operators said.
func printWords(w io.Writer, words map[string]pool.Said, now time.Time) {
	for _, host := range slices.Sorted(maps.Keys(words)) {
		said := words[host]
		by := cmp.Or(said.By, "nobody known")
		if !said.At.IsZero() {
			by += " " + Age(now.Sub(said.At)) + " ago"
		}
		fmt.Fprintf(w, "  said of %s: %s, by %s", host, said.Word, by)
		if said.Reason != "" {
			fmt.Fprintf(w, ": %s", said.Reason)
		}
		fmt.Fprintln(w)
	}
}

// printTimes prints how long hosts take, as far as it was learned.
func printTimes(w io.Writer, times map[string]pool.Times) {
	for _, class := range slices.Sorted(maps.Keys(times)) {
		t := times[class]
		var parts []string
		for _, stage := range []struct {
			name string
			took pool.Took
		}{{"to boot", t.Boot}, {"to drain", t.Drain}, {"to stop", t.Stop}} {
			if n := len(stage.took.Last); n > 0 {
				parts = append(parts, fmt.Sprintf("%s %s (p95 %s)", Age(stage.took.Quantile(0.5)), stage.name, Age(stage.took.Quantile(0.95))))
			}
		}
		if len(parts) == 0 {
			continue
		}
		if class != "" {
			class = " of " + class
		}
		fmt.Fprintf(w, "  hosts%s take %s\n", class, strings.Join(parts, ", "))
	}
}

func headline(p Pool) string {
	s := "want ?"
	if p.Want != nil {
		s = fmt.Sprintf("want %d", p.Want.Count)
	}
	if p.Status != nil {
		serving := 0
		for _, h := range p.Status.Hosts {
			if h.Phase == "ready" {
				serving++
			}
		}
		s += fmt.Sprintf("   ready %d of %d", serving, len(p.Status.Hosts)+p.Status.Omitted)
	}
	if p.Status != nil && p.Status.Watts > 0 {
		s += fmt.Sprintf("   about %.1f kW", p.Status.Watts/1000)
	}
	if p.Demand != nil {
		s += fmt.Sprintf("   demand %d GPUs (%d held, %d queued)", p.Demand.Allocated+p.Demand.Queued, p.Demand.Allocated, p.Demand.Queued)
	}
	return s
}

// busy draws a host's GPUs: one mark each, up to eight.
func busy(h consul.HostStatus) string {
	if h.GPUs > 8 {
		return fmt.Sprintf("%d/%d", h.GPUsBusy, h.GPUs)
	}
	s := ""
	for i := range h.GPUs {
		if i < h.GPUsBusy {
			s += "■"
		} else {
			s += "□"
		}
	}
	return s
}

// Age is a duration as people say it: the two largest units at most.
func Age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
