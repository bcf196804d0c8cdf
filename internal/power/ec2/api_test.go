package ec2_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/ec2"
	"github.com/gpupool/gpupool/internal/power/ec2/ec2test"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// open returns a driver of the first instance, with changes to its config.
func open(t *testing.T, e *ec2test.Endpoint, change ...func(*ec2.Config)) power.Driver {
	t.Helper()
	c := config(e, ec2test.InstanceID(1))
	for _, f := range change {
		f(&c)
	}
	d, err := ec2.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// What EC2 answers to StartInstances, and what the caller learns of it.
func TestErrorCodes(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
		says   string
	}{
		{500, "InsufficientInstanceCapacity", power.ErrCapacity, "none of this type left in the zone"},
		{400, "InsufficientReservedInstanceCapacity", power.ErrCapacity, ""},
		{400, "InsufficientHostCapacity", power.ErrCapacity, ""},
		{400, "InstanceLimitExceeded", power.ErrCapacity, "quota"},
		{400, "VcpuLimitExceeded", power.ErrCapacity, "quota"},
		{400, "MaxSpotInstanceCountExceeded", power.ErrCapacity, "quota"},
		{400, "SpotMaxPriceTooLow", power.ErrCapacity, "SpotMaxPriceTooLow"},
		{400, "IncorrectSpotRequestState", power.ErrCapacity, "took the spot instance back"},
		{400, "IncorrectInstanceState", power.ErrRefused, "IncorrectInstanceState"},
		{400, "OperationNotPermitted", power.ErrRefused, ""},
		{400, "UnsupportedOperation", power.ErrUnsupported, "cannot do that"},
		{403, "UnauthorizedOperation", power.ErrRefused, "ec2:StartInstances"},
		{401, "AuthFailure", power.ErrAuth, "access key"},
		{403, "SignatureDoesNotMatch", power.ErrAuth, "clock"},
		{400, "InvalidClientTokenId", power.ErrAuth, ""},
		{400, "ExpiredToken", power.ErrAuth, ""},
		{400, "RequestExpired", power.ErrRefused, "set the clock"},
		{400, "InvalidInstanceID.NotFound", power.ErrRefused, "no such instance"},
		{400, "SomethingNew", power.ErrRefused, "SomethingNew"},
		{500, "InternalError", power.ErrAmbiguous, "InternalError"},
		{503, "Unavailable", power.ErrAmbiguous, ""},
	} {
		t.Run(c.code, func(t *testing.T) {
			t.Parallel()
			e := ec2test.Start(t)
			e.Refuse(c.status, c.code, "in AWS's words, with "+ec2test.SecretAccessKey)
			err := open(t, e).On(cloudtest.Within(t))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("On: %v, want the class %q and %q", err, c.want, c.says)
			}
			for _, other := range []error{power.ErrUnreachable, power.ErrAuth, power.ErrAmbiguous, power.ErrRefused, power.ErrCapacity, power.ErrUnsupported} {
				if !errors.Is(other, c.want) && errors.Is(err, other) {
					t.Errorf("On: %v is of two classes", err)
				}
			}
			if strings.Contains(fmt.Sprint(err), ec2test.SecretAccessKey) {
				t.Errorf("On spills the key: %v", err)
			}
		})
	}
}

// That AWS took an instance back is said wherever it matters.
func TestSpotReclaim(t *testing.T) {
	e := ec2test.Start(t)
	d := open(t, e)
	reclaimed := func(p cloud.Phase, why string) {
		e.Set(ec2test.InstanceID(1), cloud.Instance{Phase: p, Why: why})
	}

	reclaimed(cloud.Gone, "Server.SpotInstanceTermination: Spot instance termination")
	_, err := d.State(cloudtest.Within(t))
	if want := "AWS took the spot instance back, Server.SpotInstanceTermination: Spot instance termination"; !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), want) {
		t.Errorf("terminated: %v, want %q", err, want)
	}

	reclaimed(cloud.Leaving, "Server.SpotInstanceTermination: Spot instance termination")
	if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOn || err != nil {
		t.Errorf("shutting down: %s, %v: it runs for two minutes more", p, err)
	}
	if err := d.On(cloudtest.Within(t)); !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), "took the spot instance back") {
		t.Errorf("on while it shuts down: %v", err)
	}

	reclaimed(cloud.Off, "Server.SpotInstanceShutdown: Instance was shut down")
	if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil {
		t.Errorf("stopped: %s, %v", p, err)
	}
	e.Refuse(400, "IncorrectSpotRequestState", "The Spot Instance request is not in a state that allows the instance to be started")
	if err := d.On(cloudtest.Within(t)); !errors.Is(err, power.ErrCapacity) || !strings.Contains(err.Error(), "Server.SpotInstanceShutdown") {
		t.Errorf("on after it was stopped: %v", err)
	}
}

func TestForms(t *testing.T) {
	for soft, key := range map[string]string{"": "", "stop": "", "hibernate": "Hibernate"} {
		e := ec2test.Start(t)
		d := open(t, e, func(c *ec2.Config) { c.SoftOff = soft })
		for _, how := range []power.Off{power.Soft, power.Hard} {
			if err := errors.Join(d.On(cloudtest.Within(t)), d.Off(cloudtest.Within(t), how)); err != nil {
				t.Fatal(err)
			}
		}
		forms := e.Forms("StopInstances")
		if len(forms) != 2 || forms[0].Has("Force") || forms[0].Has("Hibernate") != (key != "") || forms[1].Get("Force") != "true" || forms[1].Has("Hibernate") {
			t.Errorf("soft_off = %q sends %v", soft, forms)
		}
	}
}

func TestPages(t *testing.T) {
	ids := []string{ec2test.InstanceID(1), ec2test.InstanceID(2), ec2test.InstanceID(3)}
	e := ec2test.Start(t, ids...)
	e.Paginate(1)
	var wg sync.WaitGroup
	for _, id := range ids {
		d := open(t, e, func(c *ec2.Config) { c.InstanceID = id })
		wg.Go(func() {
			if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil {
				t.Errorf("%s: %s, %v", id, p, err)
			}
		})
	}
	wg.Wait()

	endless := ec2test.Start(t)
	endless.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		fmt.Fprint(w, `<DescribeInstancesResponse><nextToken>again</nextToken></DescribeInstancesResponse>`)
		return true
	})
	if _, err := open(t, endless).State(cloudtest.Within(t)); !errors.Is(err, power.ErrUnreachable) || len(endless.Requests("")) > 20 {
		t.Errorf("endless pages: %v after %d requests", err, len(endless.Requests("")))
	}
}

// metadata is the metadata service of a machine with a role.
type metadata struct {
	mu      sync.Mutex
	lends   string // session token of what it lends
	ends    time.Time
	fetched int
	noRole  bool
}

func (m *metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const session = "AQAEALtoken"
	m.mu.Lock()
	defer m.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/latest/meta-data/iam/security-credentials/")
	switch {
	case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
		fmt.Fprint(w, session)
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != session:
		w.WriteHeader(http.StatusUnauthorized) // IMDSv1
	case ok && path == "" && !m.noRole:
		fmt.Fprint(w, "gpupool-role")
	case ok && path == "gpupool-role":
		m.fetched++
		fmt.Fprintf(w, `{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
			ec2test.AccessKeyID, ec2test.SecretAccessKey, m.lends, m.ends.UTC().Format(time.RFC3339))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// Without keys the credential is that of the machine's role, by IMDSv2, kept
// until it ends or is refused.
func TestRole(t *testing.T) {
	e := ec2test.Start(t)
	e.WantToken("session-1")
	m := &metadata{lends: "session-1", ends: time.Now().Add(time.Hour)}
	s := loopback.Start(t, loopback.Options{Plain: true}, m)
	role := func(c *ec2.Config) {
		c.AccessKeyID, c.SecretAccessKey, c.MetadataEndpoint = "", "", s.URL
	}
	d := open(t, e, role)
	read := func(when string, fetched int) {
		t.Helper()
		if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil || m.fetched != fetched {
			t.Errorf("%s: %s, %v, with %d credentials fetched, want %d", when, p, err, m.fetched, fetched)
		}
	}
	read("at first", 1)
	read("again", 1)

	e.Expire(1) // before its time
	read("after it expired", 2)

	e.Expire(2)
	if _, err := d.State(cloudtest.Within(t)); !errors.Is(err, power.ErrAuth) || m.fetched != 3 {
		t.Errorf("expired twice: %v with %d fetched", err, m.fetched)
	}

	d = open(t, e, role, func(c *ec2.Config) { c.AuthBackoff = "10s" }) // another account, for the lock
	m.ends = time.Now().Add(10 * time.Second)                           // within the margin
	read("with one that ends", 4)
	read("and ended", 5)

	m.noRole = true
	d = open(t, e, role, func(c *ec2.Config) { c.AuthBackoff = "11s" })
	if _, err := d.State(cloudtest.Within(t)); !errors.Is(err, power.ErrAuth) || !strings.Contains(err.Error(), "instance profile") {
		t.Errorf("no role: %v", err)
	}

	s.Stop()
	d = open(t, e, role, func(c *ec2.Config) { c.AuthBackoff = "12s" })
	if _, err := d.State(cloudtest.Within(t)); !errors.Is(err, power.ErrUnreachable) || !strings.Contains(err.Error(), "access_key_id") {
		t.Errorf("no metadata service: %v", err)
	}
}
