// Package sqstest simulates Amazon SQS for tests: the JSON protocol, signed
// requests, and the counts of a queue. The real AWS SDK drives it too, in the
// module beside it.
package sqstest

import (
	"crypto/md5" //nolint:gosec // SQS's own check sum
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Server is SQS in one region, for one account.
type Server struct {
	Credentials aws.Credentials
	Region      string

	mu     sync.Mutex
	queues map[string]*contents // by URL path
}

// contents is what lies in a queue.
type contents struct {
	visible, inFlight, delayed int
}

// New makes a server without queues.
func New(c aws.Credentials, region string) *Server {
	return &Server{Credentials: c, Region: region, queues: make(map[string]*contents)}
}

// Put makes a queue and returns the path of its URL.
func (s *Server) Put(name string, visible, inFlight, delayed int) (path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path = "/123456789012/" + name
	s.queues[path] = &contents{visible, inFlight, delayed}
	return path
}

// failure is an error that SQS answers.
type failure struct {
	status        int
	code, message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := s.serve(r)
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	if err != nil {
		f := new(failure)
		if !errors.As(err, &f) {
			f = &failure{http.StatusInternalServerError, "InternalFailure", err.Error()}
		}
		w.Header().Set("X-Amzn-Query-Error", f.code+";Sender")
		w.WriteHeader(f.status)
		answer = map[string]string{"__type": "com.amazonaws.sqs#" + f.code, "message": f.message}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) serve(r *http.Request) (any, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if err := s.verify(r, body); err != nil {
		return nil, err
	}
	var in struct {
		QueueURL       string `json:"QueueUrl"`
		QueueName      string
		AttributeNames []string
		MessageBody    string
		DelaySeconds   int
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, &failure{http.StatusBadRequest, "SerializationException", err.Error()}
	}
	_, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(in.QueueURL, "https://"), "http://"), "/")
	s.mu.Lock()
	defer s.mu.Unlock()
	action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	if action == "CreateQueue" {
		path := "/123456789012/" + in.QueueName
		s.queues[path] = new(contents)
		return map[string]string{"QueueUrl": "http://" + r.Host + path}, nil
	}
	q, found := s.queues["/"+path]
	if !found {
		return nil, &failure{http.StatusBadRequest, "QueueDoesNotExist", "The specified queue does not exist."}
	}
	switch action {
	case "GetQueueAttributes":
		return map[string]any{"Attributes": q.attributes(in.AttributeNames)}, nil
	case "SendMessage":
		if in.DelaySeconds > 0 {
			q.delayed++
		} else {
			q.visible++
		}
		sum := md5.Sum([]byte(in.MessageBody)) //nolint:gosec // as above
		return map[string]string{"MessageId": "1", "MD5OfMessageBody": hex.EncodeToString(sum[:])}, nil
	case "ReceiveMessage":
		if q.visible == 0 {
			return map[string]any{}, nil
		}
		q.visible--
		q.inFlight++
		sum := md5.Sum([]byte("job")) //nolint:gosec // as above
		return map[string]any{"Messages": []map[string]string{{"MessageId": "1", "ReceiptHandle": "1", "Body": "job", "MD5OfBody": hex.EncodeToString(sum[:])}}}, nil
	case "DeleteMessage":
		q.inFlight--
		return map[string]any{}, nil
	}
	return nil, &failure{http.StatusBadRequest, "InvalidAction", action}
}

func (c *contents) attributes(names []string) map[string]string {
	all := map[string]int{
		"ApproximateNumberOfMessages": c.visible, "ApproximateNumberOfMessagesNotVisible": c.inFlight, "ApproximateNumberOfMessagesDelayed": c.delayed,
	}
	out := make(map[string]string)
	for name, n := range all {
		for _, want := range names {
			if want == name || want == "All" {
				out[name] = fmt.Sprint(n)
			}
		}
	}
	return out
}

// verify signs what was signed anew and compares.
func (s *Server) verify(r *http.Request, body []byte) error {
	given := r.Header.Get("Authorization")
	if given == "" {
		return &failure{http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token"}
	}
	_, rest, _ := strings.Cut(given, "Credential=")
	scope, rest, _ := strings.Cut(rest, ", SignedHeaders=")
	signed, _, _ := strings.Cut(rest, ", Signature=")
	if id, _, _ := strings.Cut(scope, "/"); id != s.Credentials.AccessKeyID {
		return &failure{http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid."}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if age := time.Since(at); err != nil || age > 15*time.Minute || age < -15*time.Minute {
		return &failure{http.StatusForbidden, "RequestExpired", "Signature expired"}
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.RequestURI(), strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(signed, ";") {
		if value := r.Header.Get(name); value != "" && name != "content-length" && name != "host" {
			again.Header.Set(name, value)
		}
	}
	hash := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(r.Context(), s.Credentials, again, hex.EncodeToString(hash[:]), "sqs", s.Region, at); err != nil {
		return err
	}
	if again.Header.Get("Authorization") != given {
		return &failure{http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided."}
	}
	return nil
}
