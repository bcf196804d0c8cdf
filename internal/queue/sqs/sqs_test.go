package sqs_test

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/queuetest"
	"github.com/gpupool/gpupool/internal/queue/sqs"
	"github.com/gpupool/gpupool/internal/queue/sqs/sqstest"
)

const (
	id     = "AKIAEXAMPLE"
	secret = "sqs/Secret+Key1"
	region = "eu-central-1"
)

func parse(src []byte) (*queue.Set, error) {
	return queue.Parse("queues.hcl", src, []queue.Kind{sqs.Kind()})
}

func start(t *testing.T) (*sqstest.Server, string) {
	s := sqstest.New(aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, region)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, strings.TrimPrefix(h.URL, "http://")
}

func TestContract(t *testing.T) {
	s, addr := start(t)
	t.Setenv("SQS_KEY_ID", id)
	queuetest.Run(t, queuetest.Rig{
		Kind: sqs.Kind(), Secret: secret, WrongSecret: "wrong/Secret+Key1", Frames: []string{"internal/queue/sqs."},
		Lacks: map[string]string{"restarted": "the server is a simulator; \"connection lost\" and \"nothing there\" are the same to a client without state"},
		Server: queuetest.Server{
			Addr: addr,
			Settings: func(addr, queue, password string) map[string]string {
				return map[string]string{"queue_url": "http://" + addr + "/123456789012/" + queue, "aws_region": region, "access_key_id": "env:SQS_KEY_ID", "secret_access_key": password}
			},
			SettingsTLS: func(m map[string]string) map[string]string {
				m = maps.Clone(m)
				m["queue_url"] = strings.Replace(m["queue_url"], "http://", "https://", 1)
				return m
			},
			Put: func(_ *testing.T, queue string, items, begun int) { s.Put(queue, items-begun, begun, 0) },
		},
	})
}

func TestSettings(t *testing.T) {
	s, addr := start(t)
	path := s.Put("tasks", 4, 2, 3)
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("OTHER", "other")
	read := func(more string) string {
		if !strings.Contains(more, "aws_region") {
			more += "\n    aws_region = \"" + region + "\""
		}
		if !strings.Contains(more, "queue_url") {
			more += fmt.Sprintf("\n    queue_url = \"http://%s%s\"", addr, path)
		}
		set, err := parse(fmt.Appendf(nil, "queue \"q\" {\n  source \"aws-sqs-queue\" {\n    %s\n  }\n}", more))
		if err != nil {
			return err.Error()
		}
		defer set.Close()
		return queuetest.Show(set.Queues[0].Read(t.Context(), queuetest.Now))
	}
	for _, c := range []struct{ more, want string }{
		{"queue_length = 2", "4 waiting and 2 running, needs 3, active true"},
		{"scale_on_in_flight = false", "4 waiting and unknown running, needs 4, active true"},
		{"scale_on_delayed = true", "7 waiting and 2 running"},
		{"aws_region = \"us-east-1\"", queue.ErrAuth.Error()},
		{"access_key_id = \"env:OTHER\"\n    secret_access_key = \"env:OTHER\"", queue.ErrAuth.Error()},
		{"access_key_id = \"env:OTHER\"", "give both or none"},
		{fmt.Sprintf("queue_url = \"https://sqs.eu-central-1.amazonaws.com%s\"\n    aws_endpoint = \"http://%s\"", path, addr), "4 waiting"},
		{fmt.Sprintf("queue_url = \"http://%s/1/none\"", addr), queue.ErrMissing.Error()},
	} {
		if got := read(c.more); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %q", c.more, got, c.want)
		}
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if got := read(""); !strings.Contains(got, "there is no credential") {
		t.Errorf("without a credential: %s", got)
	}
}
