// Package ec2test is an endpoint of EC2's query API for tests: one account in
// one region over TLS. It checks each request's signature with the signer of
// the AWS SDK.
//
// It is ours, as is the driver that is tested with it, so a test in a module of
// its own has the AWS SDK's own EC2 client drive it.
package ec2test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// The account of each endpoint.
const (
	Region          = "eu-central-1"
	AccessKeyID     = "AKIAGPUPOOLTEST00000"
	SecretAccessKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYGPUPOOLKEY"
)

// skew is how far the clock of a client may be off.
const skew = 5 * time.Minute

// InstanceID is an ID by number.
func InstanceID(n int) string { return fmt.Sprintf("i-%017x", n) }

// Endpoint is one simulated endpoint.
type Endpoint struct {
	*cloudtest.Cloud

	mu       sync.Mutex
	token    string // session token that requests must bring, if it is not empty
	expired  int    // requests to refuse for that
	forms    []url.Values
	pageSize int // instances on a page of DescribeInstances, all if 0
	denied   []string
}

// Start starts an endpoint with instances that are stopped, InstanceID(1) if
// none are given. It ends with the test.
func Start(t testing.TB, ids ...string) *Endpoint {
	t.Helper()
	if len(ids) == 0 {
		ids = []string{InstanceID(1)}
	}
	e := new(Endpoint)
	e.Cloud = cloudtest.New(t, loopback.Options{}, e, ids...)
	return e
}

// Forms are the forms of the requests so far with that action.
func (e *Endpoint) Forms(action string) []url.Values {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.forms), func(f url.Values) bool { return f.Get("Action") != action })
}

// WantToken makes requests need a session token.
func (e *Endpoint) WantToken(token string) { e.set(func() { e.token = token }) }

// Expire refuses the next n requests because their credential is too old.
func (e *Endpoint) Expire(n int) { e.set(func() { e.expired = n }) }

// Paginate answers reads in pages of n instances.
func (e *Endpoint) Paginate(n int) { e.set(func() { e.pageSize = n }) }

// Deny takes the right to an action, such as "StartInstances".
func (e *Endpoint) Deny(action string) { e.set(func() { e.denied = append(e.denied, action) }) }

func (e *Endpoint) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// Serve answers one request.
func (e *Endpoint) Serve(c *cloudtest.Cloud, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	form, formErr := url.ParseQuery(string(body))
	if err != nil || formErr != nil || r.Method != http.MethodPost {
		fail(w, http.StatusBadRequest, "MalformedQueryString", "The query string contains a syntax error.")
		return
	}
	e.mu.Lock()
	token, expired := e.token, e.expired > 0
	if expired {
		e.expired--
	}
	e.forms = append(e.forms, form)
	e.mu.Unlock()
	if !c.Login(w, signed(r, body, token, time.Now())) {
		return
	}
	if expired {
		fail(w, http.StatusBadRequest, "ExpiredToken", "The security token included in the request is expired")
		return
	}
	if !c.Admit(w) {
		return
	}
	id := form.Get("InstanceId.1")
	action := form.Get("Action")
	accepted := func() { e.changed(w, action, id) }
	e.mu.Lock()
	denied := slices.Contains(e.denied, action)
	e.mu.Unlock()
	switch {
	case denied:
		fail(w, http.StatusForbidden, "UnauthorizedOperation", "You are not authorized to perform this operation.")
		return
	case form.Get("DryRun") == "true":
		fail(w, http.StatusPreconditionFailed, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
		return
	}
	switch action {
	case "DescribeInstances":
		e.describe(w, form)
	case "StartInstances":
		c.Change(w, id, cloudtest.Start, accepted)
	case "StopInstances":
		do := cloudtest.SoftStop
		if form.Get("Force") == "true" {
			do = cloudtest.HardStop
		}
		c.Change(w, id, do, accepted)
	default:
		fail(w, http.StatusBadRequest, "InvalidAction", "The action "+action+" is not valid for this web service.")
	}
}

// signed says whether a request is signed with the account's key: AWS
// Signature Version 4. It signs what the client signed anew, and compares.
func signed(r *http.Request, body []byte, token string, now time.Time) bool {
	given := r.Header.Get("Authorization")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || now.Sub(at).Abs() > skew || r.Header.Get("X-Amz-Security-Token") != token {
		return false
	}
	_, names, _ := strings.Cut(given, "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	again, err := http.NewRequestWithContext(context.Background(), r.Method, "https://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return false
	}
	for name := range strings.SplitSeq(names, ";") {
		if name != "host" && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	hash := sha256.Sum256(body)
	key := aws.Credentials{AccessKeyID: AccessKeyID, SecretAccessKey: SecretAccessKey, SessionToken: token}
	if err := v4.NewSigner().SignHTTP(context.Background(), key, again, hex.EncodeToString(hash[:]), "ec2", Region, at); err != nil {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(again.Header.Get("Authorization")), []byte(given)) == 1
}

// xmlns is the namespace of replies.
const xmlns = "http://ec2.amazonaws.com/doc/2016-11-15/"

type state struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

var states = map[cloud.Phase]state{
	cloud.Starting: {0, "pending"},
	cloud.On:       {16, "running"},
	cloud.Leaving:  {32, "shutting-down"},
	cloud.Gone:     {48, "terminated"},
	cloud.Stopping: {64, "stopping"},
	cloud.Off:      {80, "stopped"},
	cloud.Unknown:  {255, "pondering"},
}

type reason struct {
	Code    string `xml:"code"`
	Message string `xml:"message"`
}

type instance struct {
	ID     string  `xml:"instanceId"`
	Image  string  `xml:"imageId"`
	State  state   `xml:"instanceState"`
	Type   string  `xml:"instanceType"`
	Reason *reason `xml:"stateReason,omitempty"`
}

func (e *Endpoint) describe(w http.ResponseWriter, form url.Values) {
	ids := e.IDs()
	var wanted []string
	for key, values := range form {
		if strings.HasPrefix(key, "Filter.1.Value.") || strings.HasPrefix(key, "InstanceId.") {
			wanted = append(wanted, values...)
		}
	}
	switch {
	case form.Get("InstanceId.1") != "":
		for _, id := range wanted {
			if !slices.Contains(ids, id) {
				e.Fail(w, cloudtest.NotFound)
				return
			}
		}
	case form.Get("Filter.1.Name") != "instance-id":
		fail(w, http.StatusBadRequest, "InvalidParameterValue", "The filter is invalid")
		return
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !slices.Contains(wanted, id) })
	next := ""
	e.mu.Lock()
	size := e.pageSize
	e.mu.Unlock()
	if from := form.Get("NextToken"); from != "" {
		ids = slices.DeleteFunc(ids, func(id string) bool { return id < from })
	}
	if size > 0 && len(ids) > size {
		next, ids = ids[size], ids[:size]
	}
	type reservation struct {
		ID        string     `xml:"reservationId"`
		Instances []instance `xml:"instancesSet>item"`
	}
	reply := struct {
		XMLName      xml.Name      `xml:"DescribeInstancesResponse"`
		Space        string        `xml:"xmlns,attr"`
		RequestID    string        `xml:"requestId"`
		Reservations []reservation `xml:"reservationSet>item"`
		NextToken    string        `xml:"nextToken,omitempty"`
	}{Space: xmlns, RequestID: requestID, NextToken: next}
	for _, id := range ids {
		i, _ := e.Get(id)
		out := instance{ID: id, Image: "ami-1", Type: "p5.48xlarge", State: states[i.Phase]}
		if code, message, ok := strings.Cut(i.Why, ": "); ok {
			out.Reason = &reason{code, code + ": " + message}
		}
		reply.Reservations = append(reply.Reservations, reservation{"r-" + id, []instance{out}})
	}
	write(w, http.StatusOK, reply)
}

func (e *Endpoint) changed(w http.ResponseWriter, action, id string) {
	i, _ := e.Get(id)
	type item struct {
		ID      string `xml:"instanceId"`
		Current state  `xml:"currentState"`
		Before  state  `xml:"previousState"`
	}
	write(w, http.StatusOK, struct {
		XMLName   xml.Name
		Space     string `xml:"xmlns,attr"`
		RequestID string `xml:"requestId"`
		Items     []item `xml:"instancesSet>item"`
	}{XMLName: xml.Name{Local: action + "Response"}, Space: xmlns, RequestID: requestID, Items: []item{{id, states[i.Phase], states[i.Phase]}}})
}

const requestID = "59dbff89-35bd-4eac-99ed-be587EXAMPLE"

// Fail answers as EC2 does.
func (e *Endpoint) Fail(w http.ResponseWriter, f cloudtest.Failure) {
	switch f {
	case cloudtest.BadLogin:
		fail(w, http.StatusUnauthorized, "AuthFailure", "AWS was not able to validate the provided access credentials")
	case cloudtest.NoCapacity:
		fail(w, http.StatusInternalServerError, "InsufficientInstanceCapacity", "We currently do not have sufficient p5.48xlarge capacity in the Availability Zone you requested (eu-central-1a).")
	case cloudtest.Throttled:
		fail(w, http.StatusServiceUnavailable, "RequestLimitExceeded", "Request limit exceeded.")
	case cloudtest.NoSoftOff:
		fail(w, http.StatusBadRequest, "UnsupportedHibernationConfiguration", "Instances that are not enabled for hibernation cannot be hibernated")
	case cloudtest.NotFound:
		fail(w, http.StatusBadRequest, "InvalidInstanceID.NotFound", "The instance ID does not exist")
	case cloudtest.WrongState:
		fail(w, http.StatusBadRequest, "IncorrectInstanceState", "The instance is not in a state from which it can be started.")
	default:
		fail(w, http.StatusBadRequest, "OperationNotPermitted", "The instance may not be changed. Modify its 'disableApiStop' instance attribute and try again.")
	}
}

// Refuse answers every change with an error code.
func (e *Endpoint) Refuse(status int, code, message string) {
	e.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte("Action=Describe")) {
			return false
		}
		fail(w, status, code, message)
		return true
	})
}

func fail(w http.ResponseWriter, status int, code, message string) {
	type e struct{ Code, Message string }
	write(w, status, struct {
		XMLName   xml.Name `xml:"Response"`
		Errors    []e      `xml:"Errors>Error"`
		RequestID string
	}{Errors: []e{{code, message}}, RequestID: requestID})
}

func write(w http.ResponseWriter, status int, reply any) {
	text, err := xml.Marshal(reply)
	if err != nil {
		panic(fmt.Sprintf("ec2test: %v", err)) // of our own types
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), text...))
}
