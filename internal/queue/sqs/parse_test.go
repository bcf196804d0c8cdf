package sqs

import (
	"errors"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/queue"
)

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		want   error
	}{
		{400, `{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no"}`, queue.ErrMissing},
		{400, `{"__type": "AWS.SimpleQueueService.NonExistentQueue"}`, queue.ErrMissing},
		{403, `{"__type": "com.amazon.coral.service#AccessDeniedException"}`, queue.ErrAuth},
		{400, `{"__type": "ExpiredTokenException"}`, queue.ErrAuth},
		{400, `{"__type": "com.amazonaws.sqs#RequestThrottled"}`, queue.ErrUnreachable},
		{400, `{"__type": "com.amazonaws.sqs#InvalidAttributeName"}`, queue.ErrRefused},
		{403, `<html>`, queue.ErrAuth},
		{400, ``, queue.ErrRefused},
	} {
		if err := failure(c.status, []byte(c.body), []string{"hunter2"}); !errors.Is(err, c.want) {
			t.Errorf("%d %s: %v, want %v", c.status, c.body, err, c.want)
		}
	}
	if err := failure(400, []byte(`{"message": "your key hunter2 is wrong"}`), []string{"hunter2"}); strings.Contains(err.Error(), "hunter2") {
		t.Errorf("spills: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"Attributes": {"ApproximateNumberOfMessages": "3", "ApproximateNumberOfMessagesNotVisible": "1", "ApproximateNumberOfMessagesDelayed": "0"}}`), true)
	f.Add([]byte(`{"Attributes": {"ApproximateNumberOfMessages": "-3"}}`), false)
	f.Fuzz(func(t *testing.T, body []byte, all bool) {
		r, err := Config{InFlight: all, Delayed: all}.read(body)
		if err != nil && !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("no class: %v", err)
		}
		if err == nil && (r.Waiting < 0 || (r.Running != nil) != all) {
			t.Errorf("%s is %v", body, r)
		}
		if err := failure(400, body, nil); err == nil {
			t.Error("no failure")
		}
	})
}
