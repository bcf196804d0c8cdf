package ec2

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/ec2/ec2test"
)

// What the credential may do is asked by dry runs, of AWS only.
func TestRights(t *testing.T) {
	for _, c := range []struct {
		name   string
		denied []string
		lacks  []string
	}{
		{"all", nil, nil},
		{"no start", []string{"StartInstances"}, []string{"ec2:StartInstances"}},
		{"none", []string{"StartInstances", "StopInstances"}, []string{"ec2:StartInstances", "ec2:StopInstances"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := ec2test.Start(t)
			for _, action := range c.denied {
				e.Deny(action)
			}
			a := open(t, e, ec2test.SecretAccessKey)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := a.Rights(ctx, ec2test.InstanceID(1)); !errors.Is(err, power.ErrUnsupported) || len(e.Requests("")) != 0 {
				t.Errorf("of another endpoint: %v, after %d requests", err, len(e.Requests("")))
			}
			a.settings.aws = true
			lacks, err := a.Rights(ctx, ec2test.InstanceID(1))
			if err != nil || !slices.Equal(lacks, c.lacks) {
				t.Errorf("lacks %v, %v, want %v", lacks, err, c.lacks)
			}
			if e.Executions() != 0 {
				t.Errorf("%d dry runs changed something", e.Executions())
			}
		})
	}
}

// What is not told is an error, and never a right.
func TestRightsNotTold(t *testing.T) {
	e := ec2test.Start(t)
	a := open(t, e, "not-the-secret-not-the-secret-not-the-se")
	a.settings.aws = true
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if lacks, err := a.Rights(ctx, ec2test.InstanceID(1)); !errors.Is(err, power.ErrAuth) || lacks != nil {
		t.Errorf("lacks %v, %v, want %v", lacks, err, power.ErrAuth)
	}
}

func open(t *testing.T, e *ec2test.Endpoint, secret power.Secret) *api {
	t.Helper()
	c := Config{
		InstanceID: ec2test.InstanceID(1), Region: ec2test.Region, Endpoint: e.URL, CAFile: e.CAFile,
		AccessKeyID: ec2test.AccessKeyID, SecretAccessKey: secret,
	}
	s, _, err := c.parse()
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAPI(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func TestEndpointsOfAWS(t *testing.T) {
	for host, want := range map[string]bool{
		"ec2.eu-central-1.amazonaws.com": true, "ec2.cn-north-1.amazonaws.com.cn": true, "ec2.us-east-1.api.aws": true,
		"vpce-1.ec2.eu-central-1.vpce.amazonaws.com": true, "EC2.EU-CENTRAL-1.AMAZONAWS.COM": true,
		"ec2.example.net": false, "amazonaws.com.example.net": false, "notamazonaws.com": false, "127.0.0.1": false,
	} {
		if got := ofAWS(host); got != want {
			t.Errorf("%s: %t", host, got)
		}
	}
}
