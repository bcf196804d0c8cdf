// Package ec2 powers instances of Amazon EC2 on and off, over its query API
// (version 2016-11-15). Requests are signed with the signer of the AWS SDK;
// the rest of that SDK, which is larger than all of gpupool, is used by the
// tests only.
//
// What is sent and when is said in package cloud. On is StartInstances,
// soft-off StopInstances, with Hibernate where the config wants that, and
// hard-off StopInstances with Force. Reads are DescribeInstances for many
// instances at once, by filter: one that is gone does not spoil the others.
package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	apiVersion  = "2016-11-15"
	connections = 8
	// most is how many instances are read at once. The largest GPU instances
	// have 32 network cards and take some 70 kB to describe, and replies are
	// read up to https.MaxBody.
	most = 50
	// pages is how many pages of one reply are read.
	pages = 10
)

// New returns the driver of one instance. It reads the CA file, and sends
// nothing.
func New(c Config) (*cloud.Driver, error) {
	s, limits, err := c.parse()
	if err != nil {
		return nil, err
	}
	return cloud.New(cloud.Config{
		Driver: "ec2", ID: c.InstanceID, Where: c.InstanceID + " in " + c.Region, Identity: c.Identity(),
		Account: s, Open: func() (cloud.API, error) { return newAPI(s) }, Trust: s.trust, Most: most, Limits: limits,
	})
}

// api is one account in one region.
type api struct {
	settings settings
	http     *http.Client
	signer   *v4.Signer
	role     *role // nil with a credential of its own
}

func newAPI(s settings) (*api, error) {
	client, err := s.trust.Client(connections, &s.endpoint)
	if err != nil {
		return nil, err
	}
	a := &api{settings: s, http: client, signer: v4.NewSigner()}
	if s.key == (keys{}) {
		if a.role, err = newRole(s.metadata); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Close closes connections.
func (a *api) Close() {
	a.http.CloseIdleConnections()
	if a.role != nil {
		a.role.http.CloseIdleConnections()
	}
}

// Read describes instances.
func (a *api) Read(ctx context.Context, ids []string) (map[string]cloud.Instance, error) {
	form := url.Values{"Action": {"DescribeInstances"}, "Filter.1.Name": {"instance-id"}}
	for i, id := range ids {
		form.Set("Filter.1.Value."+strconv.Itoa(i+1), id)
	}
	found := make(map[string]cloud.Instance, len(ids))
	for range pages {
		var reply describeReply
		if err := a.send(ctx, form, &reply); err != nil {
			return nil, err
		}
		for _, r := range reply.Reservations {
			for _, i := range r.Instances {
				found[i.ID] = i.read()
			}
		}
		if reply.NextToken == "" {
			return found, nil
		}
		form.Set("NextToken", reply.NextToken)
	}
	return nil, fmt.Errorf("%w: its answer goes on for more than %d pages", power.ErrUnreachable, pages)
}

// Start starts an instance.
func (a *api) Start(ctx context.Context, id string, _ cloud.Instance) error {
	return a.change(ctx, id, url.Values{"Action": {"StartInstances"}})
}

// Stop stops an instance.
func (a *api) Stop(ctx context.Context, id string, _ cloud.Instance, how power.Off) error {
	form := url.Values{"Action": {"StopInstances"}}
	switch {
	case how == power.Hard:
		form.Set("Force", "true")
	case a.settings.softOff == softHibernate:
		form.Set("Hibernate", "true")
	}
	return a.change(ctx, id, form)
}

func (a *api) change(ctx context.Context, id string, form url.Values) error {
	form.Set("InstanceId.1", id)
	return a.send(ctx, form, &changeReply{id: id})
}

// These are what EC2 answers to a DryRun: the request would have been carried
// out, or it would not because of the credential's policies.
var (
	errWould  = errors.New("it would have been done")
	errDenied = fmt.Errorf("%w", power.ErrRefused)
)

// Rights asks for dry runs of what Start and Stop send. Only AWS itself is asked:
// another service that speaks its language, and has not heard of DryRun, would
// just do it.
func (a *api) Rights(ctx context.Context, id string) ([]string, error) {
	if !a.settings.aws {
		return nil, fmt.Errorf("%w: a dry run is asked of AWS itself only, and the endpoint is another", power.ErrUnsupported)
	}
	var lacks []string
	for _, action := range []string{"StartInstances", "StopInstances"} {
		switch err := a.change(ctx, id, url.Values{"Action": {action}, "DryRun": {"true"}}); {
		case errors.Is(err, errDenied):
			lacks = append(lacks, "ec2:"+action)
		case err == nil:
			return nil, fmt.Errorf("%w: it took a dry run of %s for the thing", power.ErrUnreachable, action)
		case !errors.Is(err, errWould):
			return nil, err
		}
	}
	return lacks, nil
}

// reply is what an action answers.
type reply interface {
	// check says what is wrong with it.
	check() error
}

// send sends one request, and reads the reply. One that a loaned credential
// was too old for was not carried out, and is sent again with a new one.
func (a *api) send(ctx context.Context, form url.Values, into reply) error {
	for tries := 1; ; tries++ {
		key := a.settings.key
		if a.role != nil {
			var err error
			if key, err = a.role.loan.Get(ctx); err != nil {
				return err
			}
		}
		err := a.exchange(ctx, key, form, into)
		if expired := new(errExpired); !errors.As(err, &expired) || a.role == nil || tries == 2 {
			return err
		}
		a.role.loan.Return(key)
	}
}

func (a *api) exchange(ctx context.Context, key keys, form url.Values, into reply) error {
	ctx, seen := https.Watch(ctx)
	form.Set("Version", apiVersion)
	req, err := a.request(ctx, form.Encode(), key, time.Now())
	if err != nil {
		return fmt.Errorf("%w: nothing was sent: %w", power.ErrUnreachable, err)
	}
	answer := cloud.Answer{
		Change: form.Get("Action") != "DescribeInstances" && !form.Has("DryRun"), Seen: seen,
		Secrets: []power.Secret{key.secret, key.token, key.id},
	}
	status, body, err := https.Send(a.http, req)
	switch {
	case err != nil:
		answer.Err = err
		return rules.Failure(answer)
	case status != http.StatusOK:
		answer.Code, answer.Text = parseFailure(body)
		err := rules.Failure(answer)
		if strings.EqualFold(answer.Code, "ExpiredToken") || strings.EqualFold(answer.Code, "RequestExpired") {
			return &errExpired{err}
		}
		return err
	}
	if answer.Err = parse(body, into); answer.Err != nil {
		return rules.Failure(answer)
	}
	return nil
}

// request makes a signed request.
func (a *api) request(ctx context.Context, form string, key keys, now time.Time) (*http.Request, error) {
	endpoint := a.settings.endpoint
	endpoint.Path += "/"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint.String(), strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	hash := sha256.Sum256([]byte(form))
	credentials := aws.Credentials{AccessKeyID: key.id.Reveal(), SecretAccessKey: key.secret.Reveal(), SessionToken: key.token.Reveal()}
	if err := a.signer.SignHTTP(ctx, credentials, req, hex.EncodeToString(hash[:]), "ec2", a.settings.region, now); err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	return req, nil
}

// errExpired is a request that came with a credential, or a time, of the past.
type errExpired struct{ error }

// Unwrap is the error.
func (e *errExpired) Unwrap() error { return e.error }

// parse reads a reply.
func parse(body []byte, into reply) error {
	if err := xml.Unmarshal(body, into); err != nil {
		return fmt.Errorf("no reply of EC2: %w", err)
	}
	return into.check()
}

// describeReply is the answer to DescribeInstances.
type describeReply struct {
	XMLName      xml.Name `xml:"DescribeInstancesResponse"`
	Reservations []struct {
		Instances []instance `xml:"instancesSet>item"`
	} `xml:"reservationSet>item"`
	NextToken string `xml:"nextToken"`
}

func (*describeReply) check() error { return nil }

// instance is what is read of one instance.
type instance struct {
	ID     string `xml:"instanceId"`
	State  string `xml:"instanceState>name"`
	Reason struct {
		Code    string `xml:"code"`
		Message string `xml:"message"`
	} `xml:"stateReason"`
}

// phases are EC2's instance states: "Amazon EC2 instance state changes" in its
// User Guide.
var phases = map[string]cloud.Phase{
	"pending":       cloud.Starting,
	"running":       cloud.On,
	"stopping":      cloud.Stopping,
	"stopped":       cloud.Off,
	"shutting-down": cloud.Leaving,
	"terminated":    cloud.Gone,
}

// read is an instance as package cloud has it. Its reason is told if it is
// AWS's: one of Client is what its owner did.
func (i instance) read() cloud.Instance {
	out := cloud.Instance{Phase: phases[i.State], State: i.State}
	code, text := i.Reason.Code, strings.TrimPrefix(i.Reason.Message, i.Reason.Code+": ")
	switch {
	case strings.HasPrefix(code, "Server.Spot"):
		out.Why = "AWS took the spot instance back, " + code + ": " + text
	case strings.HasPrefix(code, "Server."):
		out.Why = code + ": " + text
	}
	return out
}

// changeReply is the answer to StartInstances and StopInstances.
type changeReply struct {
	XMLName xml.Name
	Items   []struct {
		ID string `xml:"instanceId"`
	} `xml:"instancesSet>item"`

	id string // that it should be about
}

func (r *changeReply) check() error {
	for _, i := range r.Items {
		if i.ID == r.id {
			return nil
		}
	}
	return errors.New("it does not say that it took the command")
}

// parseFailure reads the answer to a request that failed. It is empty if that
// is none of EC2's.
func parseFailure(body []byte) (code, text string) {
	var reply struct {
		XMLName xml.Name `xml:"Response"`
		Errors  []struct {
			Code    string
			Message string
		} `xml:"Errors>Error"`
	}
	if err := xml.Unmarshal(body, &reply); err != nil || len(reply.Errors) == 0 {
		return "", ""
	}
	return reply.Errors[0].Code, reply.Errors[0].Message
}

// rules are EC2's error codes: "Error codes for the Amazon EC2 API" in its
// Developer Guide.
var rules = cloud.Rules{
	cloud.Means(power.ErrCapacity, "AWS has none of this type left in the zone",
		"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacityOnHost", "InsufficientReservedInstanceCapacity",
		"InsufficientCapacity", "Server.InsufficientInstanceCapacity", "ReservationCapacityExceeded"),
	cloud.Means(power.ErrCapacity, "the account's quota is used up; ask AWS for more",
		"InstanceLimitExceeded", "VcpuLimitExceeded", "HostLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceTypeLimitExceeded"),
	cloud.Means(power.ErrCapacity, "", "SpotMaxPriceTooLow", "InsufficientFreeAddressesInSubnet"),
	cloud.Means(power.ErrCapacity, "AWS took the spot instance back, and starts it itself when it has the capacity", "IncorrectSpotRequestState"),
	cloud.TooOften("RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException", "RequestThrottled", "SlowDown"),
	cloud.Means(power.ErrAuth, "correct the access key, and the clock of this machine if it is off",
		"AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException", "InvalidAccessKeyId", "IncompleteSignature",
		"MissingAuthenticationToken", "ExpiredToken", "ExpiredTokenException", "Blocked", "PendingVerification", "OptInRequired"),
	cloud.Means(power.ErrUnreachable, "set the clock of this machine: the request looks old to AWS", "RequestExpired"),
	cloud.Means(errWould, "", "DryRunOperation"),
	cloud.Means(errDenied, "the policy of the credential lacks ec2:DescribeInstances, ec2:StartInstances or ec2:StopInstances",
		"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"),
	cloud.Means(power.ErrRefused, "", "IncorrectInstanceState", "IncorrectState", "InvalidState", "OperationNotPermitted"),
	cloud.Means(power.ErrUnsupported, "this instance cannot do that",
		"UnsupportedOperation", "UnsupportedHibernationConfiguration", "Unsupported", "UnsupportedInstanceAttribute"),
	cloud.Means(power.ErrRefused, "there is no such instance in this account and region", "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"),
}
