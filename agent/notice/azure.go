package notice

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// azure asks the instance metadata service for scheduled events of this
// machine. Source: Azure documentation, "Scheduled Events for Linux VMs".
type azure struct {
	base   string
	client *http.Client
	name   string // of this machine, as events call it; empty until known
}

const (
	azureBase    = "http://169.254.169.254"
	azureVersion = "2020-07-01"
)

// azureEnds are the events after which the machine is not there, or was not for
// a while. A Freeze, which is the other one, lasts seconds.
var azureEnds = map[string]string{
	"Preempt":   "Azure takes this spot machine back",
	"Terminate": "Azure deletes this machine",
	"Reboot":    "Azure reboots this machine",
	"Redeploy":  "Azure moves this machine to another host",
}

func newAzure(arg string) (Source, error) {
	return &azure{base: orElse(arg, azureBase), client: client()}, nil
}

// Look returns what is announced for this machine; events of others of its set
// are in the same list.
func (s *azure) Look(ctx context.Context) ([]Notice, error) {
	if err := s.learnName(ctx); err != nil {
		return nil, err
	}
	var said struct {
		Events []struct {
			ID        string   `json:"EventId"`
			Type      string   `json:"EventType"`
			Resources []string `json:"Resources"`
			Begin     string   `json:"NotBefore"` // empty once it has begun
		} `json:"Events"`
	}
	if err := s.get(ctx, "/metadata/scheduledevents?api-version="+azureVersion, &said); err != nil {
		return nil, err
	}
	var all []Notice
	for _, e := range said.Events {
		what, ends := azureEnds[e.Type]
		if !ends || !slices.ContainsFunc(e.Resources, func(r string) bool { return strings.EqualFold(r, s.name) }) {
			continue
		}
		n := Notice{ID: clean(e.ID), What: what}
		if e.Begin != "" {
			begin, err := time.Parse(time.RFC1123, e.Begin)
			if err != nil {
				return nil, fmt.Errorf("%w: NotBefore of event %.40q: %w", errAnswer, e.ID, err)
			}
			n.By = begin.UTC()
		}
		all = append(all, n)
	}
	return all, nil
}

func (s *azure) learnName(ctx context.Context) error {
	if s.name != "" {
		return nil
	}
	var said struct {
		Name string `json:"name"`
	}
	if err := s.get(ctx, "/metadata/instance/compute?api-version="+azureVersion+"&format=json", &said); err != nil {
		return err
	}
	if said.Name == "" {
		return fmt.Errorf("%w: the machine has no name", errAnswer)
	}
	s.name = said.Name
	return nil
}

func (s *azure) get(ctx context.Context, path string, into any) error {
	url := s.base + path
	status, text, err := fetch(ctx, s.client, http.MethodGet, url, map[string]string{"Metadata": "true"})
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return unexpected(url, status)
	}
	return decode(url, text, into)
}
