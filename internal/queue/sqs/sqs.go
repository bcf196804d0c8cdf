// Package sqs counts the messages of an Amazon SQS queue, or of anything that
// speaks its JSON protocol. Requests are signed with the signer of the AWS
// SDK; the rest of that SDK is not needed for one request.
package sqs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/dial"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Config is a queue.
type Config struct {
	URL      string // of the queue
	Region   string
	Endpoint string // of the API; empty is that of the region

	AccessKeyID, SecretAccessKey, SessionToken secret.Ref

	InFlight bool // count those that were received and not deleted
	Delayed  bool // count those that may not be received yet
	TLS      dial.TLS
}

var region = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// Kind is the line of package sources.
func Kind() queue.Kind {
	return queue.KindOf(queue.Kind{
		Name: "aws-sqs-queue", Doc: "the messages of an Amazon SQS queue",
		Targets: []string{"queue_length"}, Shared: dial.Keys,
		KEDA: dial.Names(dial.KEDA, map[string]string{
			"queue_url": "queueURL", "aws_region": "awsRegion", "aws_endpoint": "awsEndpoint", "queue_length": "queueLength",
			"scale_on_in_flight": "scaleOnInFlight", "scale_on_delayed": "scaleOnDelayed",
			"access_key_id": "awsAccessKeyID", "secret_access_key": "awsSecretAccessKey", "session_token": "awsSessionToken",
		}),
	}, Declare, New)
}

// Declare reads the settings.
func Declare(r *setting.Reader) Config {
	c := Config{
		URL: r.URL("queue_url", "", "The queue, such as `https://sqs.eu-central-1.amazonaws.com/123456789012/tasks`.", setting.NotEmpty()),
		Region: r.String("aws_region", "", "Its region, such as `eu-central-1`.", setting.Rule[string]{
			Text: "name of a region", OK: region.MatchString,
		}),
		Endpoint:        r.URL("aws_endpoint", "", "Where to ask, if it is not the server of `queue_url`."),
		AccessKeyID:     r.Secret("access_key_id", "Credential, which needs `sqs:GetQueueAttributes`. Without it, the environment's `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`."),
		SecretAccessKey: r.Secret("secret_access_key", "Its secret."),
		SessionToken:    r.Secret("session_token", "Its session, where it is a temporary one."),
		InFlight:        r.Bool("scale_on_in_flight", true, "Messages that were received and not deleted run. Otherwise what runs is unknown."),
		Delayed:         r.Bool("scale_on_delayed", false, "Messages that may not be received yet wait too."),
		TLS:             dial.DeclareTLS(r),
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		r.Reject("access_key_id", "is given without secret_access_key, or secret_access_key without it", "give both or none")
	}
	return c
}

// Source is one queue.
type Source struct {
	cfg    Config
	client *dial.Client
	signer *v4.Signer
	url    string // to ask
}

// New makes a source. It sends nothing.
func New(cfg Config) (*Source, error) {
	client, err := dial.NewClient(cfg.TLS, dial.Auth{})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(cfg.URL)
	if err == nil && cfg.Endpoint != "" {
		u, err = url.Parse(cfg.Endpoint)
	}
	if err != nil {
		return nil, errors.New("queue_url: is no URL")
	}
	return &Source{cfg, client, v4.NewSigner(), (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()}, nil
}

// The attributes of a queue that count messages. Each is approximate: SQS
// counts on many machines. (API reference, GetQueueAttributes.)
const (
	visible  = "ApproximateNumberOfMessages"
	inFlight = "ApproximateNumberOfMessagesNotVisible"
	delayed  = "ApproximateNumberOfMessagesDelayed"
)

// Read asks for the attributes of the queue.
func (s *Source) Read(ctx context.Context) (queue.Reading, error) {
	keys, err := s.cfg.credentials()
	if err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrAuth, err.Error())
	}
	secrets := []string{keys.SecretAccessKey, keys.SessionToken}
	ask := []string{visible}
	if s.cfg.InFlight {
		ask = append(ask, inFlight)
	}
	if s.cfg.Delayed {
		ask = append(ask, delayed)
	}
	body, err := json.Marshal(map[string]any{"QueueUrl": s.cfg.URL, "AttributeNames": ask})
	if err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrRefused, err.Error())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrRefused, err.Error())
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.0")
	req.Header.Set("X-Amz-Target", "AmazonSQS.GetQueueAttributes")
	hash := sha256.Sum256(body)
	if err := s.signer.SignHTTP(ctx, keys, req, hex.EncodeToString(hash[:]), "sqs", s.cfg.Region, time.Now()); err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrAuth, err.Error(), secrets...)
	}
	status, answer, _, err := s.client.Do(ctx, req, http.StatusBadRequest, http.StatusForbidden)
	if err != nil {
		return queue.Reading{}, queue.Blot(err, secrets...)
	}
	if status != http.StatusOK {
		return queue.Reading{}, failure(status, answer, secrets)
	}
	r, err := s.cfg.read(answer)
	if err != nil {
		return queue.Reading{}, queue.Blot(err, secrets...)
	}
	return r, nil
}

func (c Config) credentials() (aws.Credentials, error) {
	if c.AccessKeyID == "" {
		k := aws.Credentials{AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN")}
		if k.AccessKeyID == "" || k.SecretAccessKey == "" {
			return k, errors.New("there is no credential; give access_key_id and secret_access_key, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
		}
		return k, nil
	}
	var k aws.Credentials
	var errs [3]error
	k.AccessKeyID, errs[0] = c.AccessKeyID.Resolve()
	k.SecretAccessKey, errs[1] = c.SecretAccessKey.Resolve()
	if c.SessionToken != "" {
		k.SessionToken, errs[2] = c.SessionToken.Resolve()
	}
	return k, errors.Join(errs[:]...)
}

// refusals are the codes of what is wrong with a credential. ("Common Error
// Types" in the API reference of SQS.)
var refusals = []string{
	"AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId",
	"InvalidClientTokenId", "InvalidSecurity", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized",
	"OptInRequired", "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException", "InvalidSignatureException",
}

// failure is what SQS says when it says no.
func failure(status int, body []byte, secrets []string) error {
	var said struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		said.Message = fmt.Sprintf("%.200s", body)
	}
	_, code, found := strings.Cut(said.Type, "#")
	if !found {
		code = said.Type
	}
	class := dial.StatusClass(status)
	switch {
	case strings.Contains(code, "NonExistentQueue"), strings.Contains(code, "QueueDoesNotExist"):
		class = queue.ErrMissing
	case slices.Contains(refusals, code):
		class = queue.ErrAuth
	case strings.Contains(code, "Throttl"):
		class = queue.ErrUnreachable
	}
	return queue.Fail(class, fmt.Sprintf("HTTP %d: %s: %s", status, code, said.Message), secrets...)
}

// read finds the counts in an answer.
func (c Config) read(body []byte) (queue.Reading, error) {
	var answer struct{ Attributes map[string]string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return queue.Reading{}, queue.Fail(queue.ErrInvalid, fmt.Sprintf("the answer is none of SQS: %.80q", body))
	}
	count := func(name string) (float64, error) {
		n, err := strconv.ParseUint(answer.Attributes[name], 10, 63)
		if err != nil {
			return 0, queue.Fail(queue.ErrInvalid, fmt.Sprintf("%s is %.40q, which is no count", name, answer.Attributes[name]))
		}
		return float64(n), nil
	}
	r := queue.Reading{}
	var err error
	if r.Waiting, err = count(visible); err != nil {
		return queue.Reading{}, err
	}
	if c.Delayed {
		n, err := count(delayed)
		if err != nil {
			return queue.Reading{}, err
		}
		r.Waiting += n
	}
	if c.InFlight {
		n, err := count(inFlight)
		if err != nil {
			return queue.Reading{}, err
		}
		r.Running = &n
	}
	return r, nil
}

// Close closes the connections.
func (s *Source) Close() error { return s.client.Close() }
