// Package sdktest has the AWS SDK's own EC2 client drive the simulator that the
// ec2 driver is tested with, so that the two are not wrong in the same way.
package sdktest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/ec2"
	"github.com/gpupool/gpupool/internal/power/ec2/ec2test"
)

// client is the SDK's client of an endpoint.
func client(t *testing.T, e *ec2test.Endpoint, secret, token string) *sdk.Client {
	t.Helper()
	pem, err := os.ReadFile(e.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return sdk.New(sdk.Options{
		Region: ec2test.Region, BaseEndpoint: aws.String(e.URL), HTTPClient: &http.Client{Transport: transport}, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: ec2test.AccessKeyID, SecretAccessKey: secret, SessionToken: token}, nil
		}),
	})
}

// driver is ours.
func driver(t *testing.T, e *ec2test.Endpoint, soft string) power.Driver {
	t.Helper()
	d, err := ec2.New(ec2.Config{
		InstanceID: ec2test.InstanceID(1), Region: ec2test.Region, SoftOff: soft, Endpoint: e.URL, CAFile: e.CAFile,
		AccessKeyID: ec2test.AccessKeyID, SecretAccessKey: ec2test.SecretAccessKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// The SDK starts, stops, hibernates and describes instances of the simulator.
func TestSDKDrivesTheSimulator(t *testing.T) {
	e := ec2test.Start(t, ec2test.InstanceID(1), ec2test.InstanceID(2))
	c := client(t, e, ec2test.SecretAccessKey, "")
	id := []string{ec2test.InstanceID(1)}
	is := func(want types.InstanceStateName) {
		t.Helper()
		out, err := c.DescribeInstances(cloudtest.Within(t), &sdk.DescribeInstancesInput{InstanceIds: id})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(out.Reservations); n != 1 || len(out.Reservations[0].Instances) != 1 {
			t.Fatalf("%d reservations, want one with one instance", n)
		}
		if i := out.Reservations[0].Instances[0]; *i.InstanceId != id[0] || i.State.Name != want {
			t.Errorf("%s is %s, want %s", *i.InstanceId, i.State.Name, want)
		}
	}
	is(types.InstanceStateNameStopped)
	started, err := c.StartInstances(cloudtest.Within(t), &sdk.StartInstancesInput{InstanceIds: id})
	if err != nil {
		t.Fatal(err)
	}
	if s := started.StartingInstances; len(s) != 1 || *s[0].InstanceId != id[0] || s[0].CurrentState == nil {
		t.Errorf("StartInstances answers %+v", s)
	}
	is(types.InstanceStateNameRunning)
	if e.Power() != pool.PowerOn {
		t.Error("the instance is off")
	}
	for _, in := range []sdk.StopInstancesInput{{}, {Hibernate: aws.Bool(true)}, {Force: aws.Bool(true)}} {
		e.SetPower(pool.PowerOn)
		in.InstanceIds = id
		if _, err := c.StopInstances(cloudtest.Within(t), &in); err != nil {
			t.Fatal(err)
		}
		is(types.InstanceStateNameStopped)
	}

	e.Set(id[0], cloud.Instance{Phase: cloud.Gone, Why: "Server.SpotInstanceTermination: Spot instance termination"})
	out, err := c.DescribeInstances(cloudtest.Within(t), &sdk.DescribeInstancesInput{InstanceIds: id})
	if err != nil {
		t.Fatal(err)
	}
	if r := out.Reservations[0].Instances[0].StateReason; r == nil || *r.Code != "Server.SpotInstanceTermination" {
		t.Errorf("the reason is %+v", r)
	}
}

// A dry run of the SDK ends as AWS's does, and changes nothing: the driver's
// audits rest on that.
func TestSDKDryRun(t *testing.T) {
	e := ec2test.Start(t)
	c := client(t, e, ec2test.SecretAccessKey, "")
	id := []string{ec2test.InstanceID(1)}
	ends := func(want string, err error) {
		t.Helper()
		var api smithy.APIError
		if !errors.As(err, &api) || api.ErrorCode() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	_, err := c.StartInstances(cloudtest.Within(t), &sdk.StartInstancesInput{InstanceIds: id, DryRun: aws.Bool(true)})
	ends("DryRunOperation", err)
	e.Deny("StopInstances")
	_, err = c.StopInstances(cloudtest.Within(t), &sdk.StopInstancesInput{InstanceIds: id, DryRun: aws.Bool(true)})
	ends("UnauthorizedOperation", err)
	if e.Executions() != 0 {
		t.Errorf("%d dry runs changed something", e.Executions())
	}
}

// What the simulator fails with, the SDK reads as errors of the API.
func TestSDKReadsFailures(t *testing.T) {
	code := func(err error) string {
		var api smithy.APIError
		if !errors.As(err, &api) {
			return ""
		}
		return api.ErrorCode()
	}
	for failure, want := range map[cloudtest.Failure]string{
		cloudtest.NoCapacity: "InsufficientInstanceCapacity",
		cloudtest.Throttled:  "RequestLimitExceeded",
		cloudtest.WrongState: "IncorrectInstanceState",
		cloudtest.Refused:    "OperationNotPermitted",
	} {
		e := ec2test.Start(t)
		e.Say(failure, cloudtest.Start)
		_, err := client(t, e, ec2test.SecretAccessKey, "").StartInstances(cloudtest.Within(t), &sdk.StartInstancesInput{InstanceIds: []string{ec2test.InstanceID(1)}})
		if got := code(err); got != want {
			t.Errorf("code %q of %v, want %s", got, err, want)
		}
	}
	e := ec2test.Start(t)
	_, err := client(t, e, ec2test.SecretAccessKey, "").DescribeInstances(cloudtest.Within(t), &sdk.DescribeInstancesInput{InstanceIds: []string{ec2test.InstanceID(9)}})
	if got := code(err); got != "InvalidInstanceID.NotFound" {
		t.Errorf("code %q of %v", got, err)
	}
}

// The simulator takes what the SDK signs with the right key, and nothing else.
func TestSignatures(t *testing.T) {
	for _, c := range []struct {
		name, secret, token, wants string
		good                       bool
	}{
		{"right", ec2test.SecretAccessKey, "", "", true},
		{"wrong secret", "wrong", "", "", false},
		{"with a session token", ec2test.SecretAccessKey, "session-1", "session-1", true},
		{"without the session token", ec2test.SecretAccessKey, "", "session-1", false},
		{"with a stale session token", ec2test.SecretAccessKey, "session-0", "session-1", false},
	} {
		e := ec2test.Start(t)
		e.WantToken(c.wants)
		_, err := client(t, e, c.secret, c.token).DescribeInstances(cloudtest.Within(t), &sdk.DescribeInstancesInput{InstanceIds: []string{ec2test.InstanceID(1)}})
		var api smithy.APIError
		if c.good != (err == nil) || err != nil && (!errors.As(err, &api) || api.ErrorCode() != "AuthFailure") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The driver sends what the SDK sends.
func TestSameRequests(t *testing.T) {
	id := []string{ec2test.InstanceID(1)}
	ours, theirs := ec2test.Start(t), ec2test.Start(t)
	c := client(t, theirs, ec2test.SecretAccessKey, "")
	for _, step := range []struct {
		name, action, soft string
		on                 pool.Power // before
		ours               func(power.Driver) error
		theirs             func() error
	}{
		{"read", "DescribeInstances", "", pool.PowerOff, func(d power.Driver) error {
			_, err := d.State(cloudtest.Within(t))
			return err
		}, func() error {
			_, err := c.DescribeInstances(cloudtest.Within(t), &sdk.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("instance-id"), Values: id}}})
			return err
		}},
		{"on", "StartInstances", "", pool.PowerOff, func(d power.Driver) error { return d.On(cloudtest.Within(t)) }, func() error {
			_, err := c.StartInstances(cloudtest.Within(t), &sdk.StartInstancesInput{InstanceIds: id})
			return err
		}},
		{"soft off", "StopInstances", "", pool.PowerOn, func(d power.Driver) error { return d.Off(cloudtest.Within(t), power.Soft) }, func() error {
			_, err := c.StopInstances(cloudtest.Within(t), &sdk.StopInstancesInput{InstanceIds: id})
			return err
		}},
		{"hibernate", "StopInstances", "hibernate", pool.PowerOn, func(d power.Driver) error { return d.Off(cloudtest.Within(t), power.Soft) }, func() error {
			_, err := c.StopInstances(cloudtest.Within(t), &sdk.StopInstancesInput{InstanceIds: id, Hibernate: aws.Bool(true)})
			return err
		}},
		{"hard off", "StopInstances", "", pool.PowerOn, func(d power.Driver) error { return d.Off(cloudtest.Within(t), power.Hard) }, func() error {
			_, err := c.StopInstances(cloudtest.Within(t), &sdk.StopInstancesInput{InstanceIds: id, Force: aws.Bool(true)})
			return err
		}},
	} {
		ours.SetPower(step.on)
		theirs.SetPower(step.on)
		if err := errors.Join(step.ours(driver(t, ours, step.soft)), step.theirs()); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		last := func(e *ec2test.Endpoint) url.Values {
			forms := e.Forms(step.action)
			return forms[len(forms)-1]
		}
		if got, want := last(ours), last(theirs); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the driver sends %v, the SDK %v", step.name, got, want)
		}
	}
}
