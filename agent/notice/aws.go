package notice

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// aws asks the instance metadata service of EC2, version 2: a token first, and
// with it the three paths below. Source: Amazon EC2 User Guide, "Spot Instance
// interruption notices", "EC2 instance rebalance recommendations" and
// "Scheduled events for your instances".
type aws struct {
	base   string
	client *http.Client

	mu      sync.Mutex
	token   string
	renewAt time.Time
}

const (
	awsBase     = "http://169.254.169.254"
	awsTokenTTL = 6 * time.Hour // the longest that there is
)

func newAWS(arg string) (Source, error) {
	return &aws{base: orElse(arg, awsBase), client: client()}, nil
}

// Look returns what is announced.
func (s *aws) Look(ctx context.Context) ([]Notice, error) {
	var all []Notice
	for _, ask := range []func(context.Context) ([]Notice, error){s.interruption, s.events, s.rebalance} {
		some, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// interruption is the notice, two minutes ahead, that a spot instance will be
// stopped, hibernated or terminated.
func (s *aws) interruption(ctx context.Context) ([]Notice, error) {
	var said struct {
		Action string    `json:"action"`
		Time   time.Time `json:"time"`
	}
	found, err := s.get(ctx, "spot/instance-action", &said)
	if !found || err != nil {
		return nil, err
	}
	return []Notice{{ID: "spot", By: said.Time.UTC(), What: fmt.Sprintf("EC2 will %s this spot instance", orElse(clean(said.Action), "take"))}}, nil
}

// rebalance is the word that an interruption has become likely, which may come
// with the notice or before it. It has no time by which the instance is gone.
func (s *aws) rebalance(ctx context.Context) ([]Notice, error) {
	var said struct {
		Time time.Time `json:"noticeTime"`
	}
	found, err := s.get(ctx, "events/recommendations/rebalance", &said)
	if !found || err != nil {
		return nil, err
	}
	return []Notice{{ID: "rebalance", Likely: true, What: "EC2 recommends to replace this spot instance, which is likely to be interrupted"}}, nil
}

// awsTime is how scheduled events write times: "21 Jan 2019 09:00:43 GMT".
const awsTime = "2 Jan 2006 15:04:05 MST"

// events are reboots, stops and retirements that EC2 has planned, days ahead.
func (s *aws) events(ctx context.Context) ([]Notice, error) {
	var said []struct {
		ID    string `json:"EventId"`
		Code  string `json:"Code"`
		State string `json:"State"`
		Begin string `json:"NotBefore"`
	}
	found, err := s.get(ctx, "events/maintenance/scheduled", &said)
	if !found || err != nil {
		return nil, err
	}
	var all []Notice
	for _, e := range said {
		if e.State != "active" {
			continue
		}
		begin, err := time.Parse(awsTime, e.Begin)
		if err != nil {
			return nil, fmt.Errorf("%w: NotBefore of event %.40q: %w", errAnswer, e.ID, err)
		}
		all = append(all, Notice{ID: clean(e.ID), By: begin.UTC(), What: "EC2 has scheduled " + clean(e.Code)})
	}
	return all, nil
}

// get reads one path; found is false where there is none, which is the usual.
func (s *aws) get(ctx context.Context, path string, into any) (found bool, err error) {
	url := s.base + "/latest/meta-data/" + path
	for try := 0; ; try++ {
		token, err := s.fresh(ctx)
		if err != nil {
			return false, err
		}
		status, text, err := fetch(ctx, s.client, http.MethodGet, url, map[string]string{"X-aws-ec2-metadata-token": token})
		switch {
		case err != nil:
			return false, err
		case status == http.StatusNotFound:
			return false, nil
		case status == http.StatusUnauthorized && try == 0: // the token ran out early
			s.forget()
			continue
		case status != http.StatusOK:
			return false, unexpected(url, status)
		}
		return true, decode(url, text, into)
	}
}

// fresh is a token of the metadata service.
func (s *aws) fresh(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && time.Now().Before(s.renewAt) {
		return s.token, nil
	}
	url := s.base + "/latest/api/token"
	status, text, err := fetch(ctx, s.client, http.MethodPut, url, map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": fmt.Sprint(int(awsTokenTTL.Seconds()))})
	switch {
	case err != nil:
		return "", err
	case status != http.StatusOK:
		return "", unexpected(url, status)
	}
	s.token, s.renewAt = string(text), time.Now().Add(awsTokenTTL/2)
	return s.token, nil
}

func (s *aws) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = ""
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
