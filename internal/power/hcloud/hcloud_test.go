package hcloud_test

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/hcloud"
	"github.com/gpupool/gpupool/internal/power/hcloud/hcloudtest"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

const wrongToken = "not-the-token-not-the-token"

func TestContract(t *testing.T) {
	powertest.Run(t, powertest.Rig{
		Start: func(t *testing.T) powertest.Controller {
			e := hcloudtest.Start(t)
			open := func(token power.Secret) func() (power.Driver, error) {
				return func() (power.Driver, error) {
					c := config(e.Cloud, hcloudtest.ServerID(1))
					c.Token = token
					return hcloud.New(c)
				}
			}
			return e.Controller(open(hcloudtest.Token), open(wrongToken))
		},
		Secret:      hcloudtest.Token,
		WrongSecret: wrongToken,
		Frames:      cloudtest.Frames("hcloud"),
		Lacks:       map[string]string{"no secret in argv": "the driver starts no process"},
	})
}

func TestCloud(t *testing.T) {
	cloudtest.Run(t, cloudtest.Rig{
		Start: func(t *testing.T, ids ...string) *cloudtest.Cloud { return hcloudtest.Start(t, ids...).Cloud },
		ID:    hcloudtest.ServerID,
		Open: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			return hcloud.New(config(c, id))
		},
		OpenInsecure: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			cfg := config(c, id)
			cfg.CAFile, cfg.InsecureSkipVerify = "", true
			return hcloud.New(cfg)
		},
		Rights:   "Hetzner Cloud does not say",
		IsChange: func(r *http.Request) bool { return r.Method == http.MethodPost },
		Phases:   []cloud.Phase{cloud.Starting, cloud.Stopping, cloud.Busy, cloud.Leaving, cloud.Unknown},
		Secret:   hcloudtest.Token,
	})
}

// config reaches a server.
func config(c *cloudtest.Cloud, id string) hcloud.Config {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		panic(err)
	}
	return hcloud.Config{Server: n, Token: hcloudtest.Token, Endpoint: c.URL + "/v1", CAFile: c.CAFile}
}

func open(t *testing.T, c hcloud.Config) power.Driver {
	t.Helper()
	d, err := hcloud.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestCommands(t *testing.T) {
	e := hcloudtest.Start(t)
	d := open(t, config(e.Cloud, hcloudtest.ServerID(1)))
	for _, how := range []power.Off{power.Soft, power.Hard} {
		if err := errors.Join(d.On(cloudtest.Within(t)), d.Off(cloudtest.Within(t), how)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := e.Commands(), []string{"poweron", "shutdown", "poweron", "poweroff"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// What becomes of actions after they were accepted.
func TestActions(t *testing.T) {
	for _, c := range []struct {
		name, code string
		takes      time.Duration
		want       error
		says       string
	}{
		{"no capacity", "resource_unavailable", 700 * time.Millisecond, power.ErrCapacity, "none of this type left"},
		{"limit", "resource_limit_exceeded", 0, power.ErrCapacity, "limit"},
		{"another failure", "action_failed", 0, power.ErrRefused, "action_failed in Hetzner's words"},
		{"longer than it is watched", "resource_unavailable", time.Minute, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := hcloudtest.Start(t)
			e.Slow(c.takes, c.code, "in Hetzner's words")
			cfg := config(e.Cloud, hcloudtest.ServerID(1))
			cfg.ActionWait = "2s"
			err := open(t, cfg).On(cloudtest.Within(t))
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("On: %v, want %v and %q", err, c.want, c.says)
			}
			if n := len(e.Commands()); n != 1 {
				t.Errorf("the change was sent %d times", n)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	powertest.RunConfig(t, powertest.ConfigRig[hcloud.Config]{
		HCL: []string{`
			server       = 4711001
			token        = "secret-Pass1"
			action_wait  = "10s"
			endpoint     = "https://api.example.net/v1"
			ca_file      = "/etc/ssl/hcloud.pem"
			timeout      = "1m"
			auth_backoff = "1m"
		`, `
			server      = 4711001
			token       = "secret-Pass1"
			fingerprint = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		`, `
			server               = 4711001
			token                = "secret-Pass1"
			insecure_skip_verify = true
		`},
		Secrets: []string{"secret-Pass1", "sesame"},
		Good:    hcloud.Config{Server: 4711001, Token: "secret-Pass1"},
		Cases: []powertest.ConfigCase[hcloud.Config]{
			{Name: "no server", Change: func(c *hcloud.Config) { c.Server = 0 }, Want: "server: 0 is not the number"},
			{Name: "no token", Change: func(c *hcloud.Config) { c.Token = "" }, Want: "token: is empty"},
			{Name: "two tokens", Change: func(c *hcloud.Config) { c.Token = "sesame\nsesame" }, Want: "token: has a space"},
			{Name: "plain HTTP", Change: func(c *hcloud.Config) { c.Endpoint = "http://api.example.net" }, Want: "endpoint: "},
			{Name: "action_wait", Change: func(c *hcloud.Config) { c.ActionWait = "3m" }, Want: "action_wait: 3m0s is outside"},
		},
		Wrong:   hcloud.Config{ActionWait: "x", Endpoint: "x", Fingerprint: "x", InsecureSkipVerify: true, Timeout: "x", AuthBackoff: "x"},
		WrongIn: []string{"server", "token", "action_wait", "endpoint", "fingerprint", "insecure_skip_verify", "timeout", "auth_backoff"},
		New:     func(c hcloud.Config) (power.Driver, error) { return hcloud.New(c) },
	})
}
