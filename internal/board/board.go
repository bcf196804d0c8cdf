// Package board prints how pools stand, as a table for people.
package board

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/gpupool/gpupool/internal/consul"
)

// Pool is what there is to show of one pool. What is not known is nil.
type Pool struct {
	Name   string
	Want   *consul.Want
	Status *consul.Status
	Demand *Demand
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
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  HOST\tPOWER\tPHASE\tFOR\tGPUS BUSY\tWHY")
	for _, h := range p.Status.Hosts {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", h.ID, h.Power, h.Phase, Age(now.Sub(h.Since)), busy(h), h.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if p.Status.Omitted > 0 {
		fmt.Fprintf(w, "  and %d hosts more\n", p.Status.Omitted)
	}
	_, err := fmt.Fprintf(w, "  seen %s ago by %s\n", Age(now.Sub(p.Status.At)), p.Status.Holder)
	return err
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
