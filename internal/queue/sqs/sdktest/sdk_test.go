// Package sdktest has the AWS SDK's own SQS client drive the simulator that
// the aws-sqs-queue source is tested with, so that the two are not wrong in
// the same way.
package sdktest

import (
	"context"
	"errors"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/sqs"
	"github.com/gpupool/gpupool/internal/queue/sqs/sqstest"
)

const region = "eu-central-1"

var keys = aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "sqs/Secret+Key1", SessionToken: "session/Token=="}

func client(url string, c aws.Credentials) *sdk.Client {
	return sdk.New(sdk.Options{
		Region: region, BaseEndpoint: &url, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }),
	})
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The SDK fills and empties a queue of the simulator, and our source counts
// what the SDK counts.
func TestSameCounts(t *testing.T) {
	s := httptest.NewServer(sqstest.New(keys, region))
	defer s.Close()
	aws := client(s.URL, keys)
	ctx := t.Context()
	url := must[*sdk.CreateQueueOutput](t)(aws.CreateQueue(ctx, &sdk.CreateQueueInput{QueueName: ptr("tasks")})).QueueUrl

	t.Setenv("ID", keys.AccessKeyID)
	t.Setenv("SECRET", keys.SecretAccessKey)
	t.Setenv("SESSION", keys.SessionToken)
	ours, err := sqs.New(sqs.Config{
		URL: *url, Region: region, InFlight: true, Delayed: true, AccessKeyID: "env:ID", SecretAccessKey: "env:SECRET", SessionToken: "env:SESSION",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	same := func(waiting, running float64) {
		t.Helper()
		r, err := ours.Read(ctx)
		if err != nil || r.Waiting != waiting || *r.Running != running {
			t.Errorf("we read %+v, %v, want %v and %v", r, err, waiting, running)
		}
		out := must[*sdk.GetQueueAttributesOutput](t)(aws.GetQueueAttributes(ctx, &sdk.GetQueueAttributesInput{QueueUrl: url, AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible, types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
		}}))
		n := func(name types.QueueAttributeName) float64 {
			v, err := strconv.ParseFloat(out.Attributes[string(name)], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if w := n(types.QueueAttributeNameApproximateNumberOfMessages) + n(types.QueueAttributeNameApproximateNumberOfMessagesDelayed); w != waiting || n(types.QueueAttributeNameApproximateNumberOfMessagesNotVisible) != running {
			t.Errorf("the SDK reads %v, want %v and %v", out.Attributes, waiting, running)
		}
	}
	same(0, 0)
	for i := range 5 {
		must[*sdk.SendMessageOutput](t)(aws.SendMessage(ctx, &sdk.SendMessageInput{QueueUrl: url, MessageBody: ptr("job"), DelaySeconds: int32(i / 4 * 60)}))
	}
	same(5, 0)
	got := must[*sdk.ReceiveMessageOutput](t)(aws.ReceiveMessage(ctx, &sdk.ReceiveMessageInput{QueueUrl: url}))
	same(4, 1)
	must[*sdk.DeleteMessageOutput](t)(aws.DeleteMessage(ctx, &sdk.DeleteMessageInput{QueueUrl: url, ReceiptHandle: got.Messages[0].ReceiptHandle}))
	same(4, 0)
}

// The SDK and our source see the same class in an error.
func TestSameErrors(t *testing.T) {
	s := httptest.NewServer(sqstest.New(keys, region))
	defer s.Close()
	t.Setenv("ID", keys.AccessKeyID)
	t.Setenv("SECRET", keys.SecretAccessKey)
	t.Setenv("SESSION", keys.SessionToken)
	t.Setenv("WRONG", "wrong")
	url := s.URL + "/123456789012/none"
	good := sqs.Config{URL: url, Region: region, AccessKeyID: "env:ID", SecretAccessKey: "env:SECRET", SessionToken: "env:SESSION"}
	for _, c := range []struct {
		name string
		edit func(*sqs.Config, *aws.Credentials)
		code string
		want error
	}{
		{"missing", func(*sqs.Config, *aws.Credentials) {}, "QueueDoesNotExist", queue.ErrMissing},
		{"wrong secret", func(c *sqs.Config, k *aws.Credentials) { c.SecretAccessKey, k.SecretAccessKey = "env:WRONG", "wrong" }, "SignatureDoesNotMatch", queue.ErrAuth},
		{"wrong ID", func(c *sqs.Config, k *aws.Credentials) { c.AccessKeyID, k.AccessKeyID = "env:WRONG", "wrong" }, "InvalidClientTokenId", queue.ErrAuth},
	} {
		cfg, k := good, keys
		c.edit(&cfg, &k)
		_, err := client(s.URL, k).GetQueueAttributes(t.Context(), &sdk.GetQueueAttributesInput{QueueUrl: &url})
		var said smithy.APIError
		if !errors.As(err, &said) || !strings.Contains(said.ErrorCode(), c.code) {
			t.Errorf("%s: the SDK says %v, want %s", c.name, err, c.code)
		}
		ours, err := sqs.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ours.Read(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%s: we say %v, want %v", c.name, err, c.want)
		}
		_ = ours.Close()
	}
}

func ptr[T any](v T) *T { return &v }
