// Package gce powers instances of Google Compute Engine on and off, over its
// REST API (compute v1).
//
// What is sent and when is said in package cloud. On is instances.start, or
// instances.resume for a suspended one; soft-off is instances.stop, and
// hard-off the same without the graceful shutdown that an instance may have set.
// Each is an operation that goes on after it was accepted, and is watched for a
// moment: that there is no capacity shows there. Reads are instances.list for
// many instances at once, with a filter and a mask.
package gce

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	connections = 8
	most        = 50 // instances in a read: their names are in its URL
	pages       = 10 // of one reply
)

// New returns the driver of one instance. It reads the CA file, and sends
// nothing.
func New(c Config) (*cloud.Driver, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	return cloud.New(cloud.Config{
		Driver: "gce", ID: c.Instance, Where: c.Instance + " in " + c.Project + "/" + c.Zone, Identity: c.Identity(),
		Account: s, Open: func() (cloud.API, error) { return newAPI(s) }, Trust: s.trust, Most: most, Limits: s.limits,
	})
}

// api is one zone of one project.
type api struct {
	settings settings
	http     *http.Client
	tokens   *http.Client // where tokens come from
	token    *cloud.Loan[power.Secret]

	mu        sync.Mutex
	preempted map[string]preemption // by instance
}

// preemption is what was found out about the last stop of a spot instance.
type preemption struct {
	start string // the lastStartTimestamp of the run that ended
	phase cloud.Phase
	why   string // empty if it was not Google
}

func newAPI(s settings) (*api, error) {
	a := &api{settings: s, preempted: make(map[string]preemption)}
	var get fetch
	if s.credentials == "" {
		client, err := https.Trust{}.Client(2, &s.metadata)
		if err != nil {
			return nil, err
		}
		a.tokens, get = client, lend(client, s.metadata)
	} else {
		k, err := parseKey(s.credentials)
		if err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		client, err := s.trust.Client(2, k.tokenURI)
		if err != nil {
			return nil, err
		}
		a.tokens, get = client, exchange(client, k)
	}
	a.token = cloud.NewLoan(get)
	client, err := s.trust.Client(connections, &s.endpoint)
	a.http = client
	return a, err
}

// Close closes connections.
func (a *api) Close() {
	a.http.CloseIdleConnections()
	a.tokens.CloseIdleConnections()
}

// Read lists instances.
func (a *api) Read(ctx context.Context, ids []string) (map[string]cloud.Instance, error) {
	terms := make([]string, len(ids))
	for i, id := range ids {
		terms[i] = fmt.Sprintf("(name = %q)", id)
	}
	query := url.Values{
		"filter": {strings.Join(terms, " OR ")},
		"fields": {"items(name,status,statusMessage,lastStartTimestamp,scheduling(preemptible,provisioningModel)),nextPageToken,kind"},
	}
	var all []instance
	for range pages {
		var list instanceList
		if err := a.send(ctx, call{method: http.MethodGet, path: "instances", query: query}, &list); err != nil {
			return nil, err
		}
		all = append(all, list.Items...)
		if list.NextPageToken == "" {
			return a.explain(ctx, all), nil
		}
		query.Set("pageToken", list.NextPageToken)
	}
	return nil, fmt.Errorf("%w: its answer goes on for more than %d pages", power.ErrUnreachable, pages)
}

// Start starts an instance.
func (a *api) Start(ctx context.Context, id string, was cloud.Instance) error {
	verb := "start"
	if was.State == suspended {
		verb = "resume"
	}
	return a.change(ctx, id, verb, nil)
}

// Stop stops an instance.
func (a *api) Stop(ctx context.Context, id string, _ cloud.Instance, how power.Off) error {
	query := url.Values{}
	if a.settings.discard != "" {
		query.Set("discardLocalSsd", a.settings.discard)
	}
	if how == power.Hard {
		query.Set("noGracefulShutdown", "true")
	}
	return a.change(ctx, id, "stop", query)
}

// rights are what Start and Stop want.
var rights = []string{"compute.instances.start", "compute.instances.stop"}

// Rights asks which of them the credential has: instances.testIamPermissions.
func (a *api) Rights(ctx context.Context, id string) ([]string, error) {
	body, err := json.Marshal(map[string][]string{"permissions": rights})
	if err != nil {
		return nil, err
	}
	var has permissions
	if err := a.send(ctx, call{method: http.MethodPost, path: "instances/" + id + "/testIamPermissions", body: body}, &has); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(rights), func(r string) bool { return slices.Contains(has.Permissions, r) }), nil
}

// permissions is the answer to instances.testIamPermissions: those asked for
// that the caller has.
type permissions struct {
	Permissions []string `json:"permissions"`
}

func (*permissions) check() error { return nil }

// change makes a change and watches what becomes of it.
func (a *api) change(ctx context.Context, id, verb string, query url.Values) error {
	var op operation
	if err := a.send(ctx, call{method: http.MethodPost, path: "instances/" + id + "/" + verb, query: query}, &op); err != nil {
		return err
	}
	if over, err := op.ended(a); over {
		return err
	}
	return cloud.Follow(ctx, a.settings.wait, func(ctx context.Context) (bool, error) {
		var now operation
		if err := a.send(ctx, call{method: http.MethodGet, path: "operations/" + url.PathEscape(op.Name)}, &now); err != nil {
			return false, nil //nolint:nilerr // that it cannot be read does not end it
		}
		return now.ended(a)
	})
}

// reply is what a request is answered with.
type reply interface {
	// check says what is wrong with it.
	check() error
}

// call is a request of one zone.
type call struct {
	method, path string
	query        url.Values
	body         []byte // of a question, which changes nothing; nil for none
}

// send sends one request, and reads the reply. One that the token was too old
// for was not carried out, and is sent again with a new one.
func (a *api) send(ctx context.Context, c call, into reply) error {
	for tries := 1; ; tries++ {
		token, err := a.token.Get(ctx)
		if err != nil {
			return err
		}
		status, err := a.exchange(ctx, token, c, into)
		if status != http.StatusUnauthorized || tries == 2 {
			return err
		}
		a.token.Return(token)
	}
}

func (a *api) exchange(ctx context.Context, token power.Secret, c call, into reply) (status int, err error) {
	u := a.settings.endpoint
	u.Path += "/compute/v1/projects/" + a.settings.project + "/zones/" + a.settings.zone + "/" + c.path
	u.RawQuery = c.query.Encode()
	ctx, seen := https.Watch(ctx)
	req, err := http.NewRequestWithContext(ctx, c.method, u.String(), bytes.NewReader(c.body))
	if err != nil {
		return 0, fmt.Errorf("%w: nothing was sent: %w", power.ErrUnreachable, err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	if c.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer := cloud.Answer{Change: c.method == http.MethodPost && c.body == nil, Seen: seen, Secrets: []power.Secret{token}}
	status, body, err := https.Send(a.http, req)
	switch {
	case err != nil:
		answer.Err = err
	case status != http.StatusOK:
		answer.Code, answer.Text = parseFailure(body)
	default:
		answer.Err = parse(body, into)
		if answer.Err == nil {
			return status, nil
		}
	}
	return status, rules.Failure(answer)
}

// parse reads a reply.
func parse(body []byte, into reply) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("no reply of Compute Engine: %w", err)
	}
	return into.check()
}

// errKind is a reply that is about something else.
var errKind = errors.New("no reply of Compute Engine to this request")

// instanceList is the answer to instances.list.
type instanceList struct {
	Kind          string     `json:"kind"`
	Items         []instance `json:"items"`
	NextPageToken string     `json:"nextPageToken"`
}

func (l *instanceList) check() error {
	if l.Kind != "compute#instanceList" {
		return errKind
	}
	return nil
}

// instance is what is read of one instance.
type instance struct {
	Name          string `json:"name"`
	Status        string `json:"status"`
	StatusMessage string `json:"statusMessage"`
	LastStart     string `json:"lastStartTimestamp"`
	Scheduling    struct {
		Preemptible       bool   `json:"preemptible"`
		ProvisioningModel string `json:"provisioningModel"`
	} `json:"scheduling"`
}

const suspended = "SUSPENDED"

// phases are the states of an instance: "Compute Engine instance lifecycle" in
// its documentation.
var phases = map[string]cloud.Phase{
	"PENDING":        cloud.Starting,
	"PROVISIONING":   cloud.Starting,
	"STAGING":        cloud.Starting,
	"RUNNING":        cloud.On,
	"PENDING_STOP":   cloud.Stopping,
	"STOPPING":       cloud.Stopping,
	"SUSPENDING":     cloud.Stopping,
	"STOPPED":        cloud.Off,
	"TERMINATED":     cloud.Off,
	suspended:        cloud.Off,
	"REPAIRING":      cloud.Busy,
	"DEPROVISIONING": cloud.Leaving,
}

func (i instance) spot() bool {
	return i.Scheduling.Preemptible || i.Scheduling.ProvisioningModel == "SPOT"
}

// explain is instances as package cloud has them. Of spot instances that stop
// or have stopped it is found out, once each, whether Google took them back.
func (a *api) explain(ctx context.Context, all []instance) map[string]cloud.Instance {
	found := make(map[string]cloud.Instance, len(all))
	var unexplained []instance
	for _, i := range all {
		out := cloud.Instance{Phase: phases[i.Status], State: i.Status, Why: i.StatusMessage}
		if i.spot() && (out.Phase == cloud.Off || out.Phase == cloud.Stopping) {
			a.mu.Lock()
			known := a.preempted[i.Name]
			a.mu.Unlock()
			if known.start == i.LastStart && known.phase == out.Phase {
				out.Why = cmp.Or(known.why, out.Why)
			} else {
				unexplained = append(unexplained, i)
			}
		}
		found[i.Name] = out
	}
	if len(unexplained) == 0 {
		return found
	}
	reasons, err := a.preemptions(ctx)
	if err != nil {
		return found // it is asked again with the next read
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, i := range unexplained {
		out := found[i.Name]
		why := ""
		if at := reasons[i.Name]; at.After(parseTime(i.LastStart)) {
			why = "Google took the spot instance back at " + at.UTC().Format(time.RFC3339) + " (compute.instances.preempted)"
		}
		a.preempted[i.Name] = preemption{i.LastStart, out.Phase, why}
		out.Why = cmp.Or(why, out.Why)
		found[i.Name] = out
	}
	return found
}

// preemptions are when instances of the zone were last taken back, of the last
// so many.
func (a *api) preemptions(ctx context.Context) (map[string]time.Time, error) {
	query := url.Values{
		"filter":     {`operationType = "compute.instances.preempted"`},
		"fields":     {"items(operationType,targetLink,insertTime),kind"},
		"orderBy":    {"creationTimestamp desc"},
		"maxResults": {"200"},
	}
	var list operationList
	if err := a.send(ctx, call{method: http.MethodGet, path: "operations", query: query}, &list); err != nil {
		return nil, err
	}
	last := make(map[string]time.Time)
	for _, o := range list.Items {
		_, name, _ := strings.Cut(o.Target, "/instances/")
		if at := parseTime(o.InsertTime); o.Type == "compute.instances.preempted" && at.After(last[name]) {
			last[name] = at
		}
	}
	return last, nil
}

// parseTime reads a time of Google's, none if it is not one.
func parseTime(text string) time.Time {
	at, _ := time.Parse(time.RFC3339, text) // the zero time is before all others
	return at
}

// operationList is the answer to zoneOperations.list.
type operationList struct {
	Kind  string `json:"kind"`
	Items []struct {
		Type       string `json:"operationType"`
		Target     string `json:"targetLink"`
		InsertTime string `json:"insertTime"`
	} `json:"items"`
}

func (l *operationList) check() error {
	if l.Kind != "compute#operationList" {
		return errKind
	}
	return nil
}

// operation is a change that goes on.
type operation struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Status string `json:"status"` // PENDING, RUNNING or DONE
	Error  *struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	} `json:"error"`
}

func (o *operation) check() error {
	if o.Kind != "compute#operation" || o.Name == "" {
		return errKind
	}
	return nil
}

// ended says whether an operation is over, and how.
func (o *operation) ended(a *api) (bool, error) {
	if o.Error != nil && len(o.Error.Errors) > 0 {
		first := o.Error.Errors[0]
		return true, rules.Failure(cloud.Answer{
			Change: true, Seen: new(https.Exchange), Code: first.Code, Text: first.Message,
			Else: power.ErrRefused, Secrets: []power.Secret{a.settings.credentials},
		})
	}
	return o.Status == "DONE", nil
}

// parseFailure reads the answer to a request that failed. It is empty if that
// is none of Google's.
func parseFailure(body []byte) (code, text string) {
	var reply struct {
		Error struct {
			Message string `json:"message"`
			Errors  []struct {
				Reason string `json:"reason"`
			} `json:"errors"`
			Status string `json:"status"`
		} `json:"error"`
	}
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) || json.Unmarshal(body, &reply) != nil {
		return "", ""
	}
	code = reply.Error.Status
	if len(reply.Error.Errors) > 0 {
		code = reply.Error.Errors[0].Reason
	}
	return code, reply.Error.Message
}

// rules are the codes of operations that failed and the reasons of requests
// that did: "Resource availability errors" and "Troubleshoot API errors" in
// Compute Engine's documentation.
var rules = cloud.Rules{
	cloud.Means(power.ErrCapacity, "Google has none of this type left in the zone",
		"ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "RESOURCE_POOL_EXHAUSTED", "STOCKOUT",
		"RESERVATION_CAPACITY_EXCEEDED", "INSUFFICIENT_CAPACITY"),
	cloud.Means(power.ErrCapacity, "the project's quota is used up; ask Google for more", "QUOTA_EXCEEDED", "quotaExceeded"),
	cloud.TooOften("rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED", "resourceOperationRateExceeded", "RESOURCE_OPERATION_RATE_EXCEEDED"),
	cloud.Means(power.ErrAuth, "the access token was refused", "authError", "UNAUTHENTICATED"),
	cloud.Means(power.ErrRefused, "the service account lacks compute.instances.list, start or stop, or compute.zoneOperations.get; give it roles/compute.instanceAdmin.v1",
		"forbidden", "PERMISSION_DENIED", "insufficientPermissions", "accessNotConfigured"),
	cloud.Means(power.ErrRefused, "it is on its way to another state", "resourceNotReady", "RESOURCE_NOT_READY", "resourceInUseByAnotherResource"),
	cloud.Means(power.ErrRefused, "there is no such project, zone or instance", "notFound", "NOT_FOUND", "RESOURCE_NOT_FOUND"),
	cloud.Means(power.ErrUnsupported, "this instance cannot do that; one with local SSDs needs discard_local_ssd", "UNSUPPORTED_OPERATION", "unsupportedOperation"),
}
