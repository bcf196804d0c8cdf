package notice

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// gcp asks the metadata server of Compute Engine. Source: Compute Engine
// documentation, "Preemptible VM instances" and "Get live migration notices";
// GPU machines are terminated for host maintenance, with an hour's notice.
type gcp struct {
	base   string
	client *http.Client
	first  map[string]time.Time // when each word was first heard
}

const gcpBase = "http://169.254.169.254"

func newGCP(arg string) (Source, error) {
	return &gcp{orElse(arg, gcpBase), client(), map[string]time.Time{}}, nil
}

// gcpWords are what the server says of a machine that will go, and how long
// after that it may. The server itself tells no time.
var gcpWords = []struct {
	path, stays, goes string
	within            time.Duration
	what              string
}{
	{"preempted", "FALSE", "TRUE", 30 * time.Second, "Compute Engine preempts this machine"},
	{"maintenance-event", "", "TERMINATE_ON_HOST_MAINTENANCE", time.Hour, "Compute Engine terminates this machine for maintenance of its host"},
}

// Look returns what is announced.
func (s *gcp) Look(ctx context.Context) ([]Notice, error) {
	var all []Notice
	for _, w := range gcpWords {
		said, err := s.get(ctx, w.path)
		switch {
		case err != nil:
			return nil, err
		case said == w.goes:
			if s.first[w.path].IsZero() {
				s.first[w.path] = time.Now()
			}
			all = append(all, Notice{ID: w.path, By: s.first[w.path].Add(w.within), What: w.what})
		case w.stays != "" && said != w.stays:
			return nil, fmt.Errorf("%w: %s is %.40q", errAnswer, w.path, said)
		default: // such as a live migration, which work survives
			delete(s.first, w.path)
		}
	}
	return all, nil
}

func (s *gcp) get(ctx context.Context, what string) (string, error) {
	url := s.base + "/computeMetadata/v1/instance/" + what
	status, text, err := fetch(ctx, s.client, http.MethodGet, url, map[string]string{"Metadata-Flavor": "Google"})
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", unexpected(url, status)
	}
	return strings.TrimSpace(string(text)), nil
}
