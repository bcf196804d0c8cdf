package openstack_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/openstack"
	"github.com/gpupool/gpupool/internal/power/openstack/openstacktest"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

const wrongSecret = "not-the-application-secret"

func TestContract(t *testing.T) {
	for _, soft := range []string{"stop", "shelve"} {
		t.Run(soft, func(t *testing.T) {
			powertest.Run(t, powertest.Rig{
				Start: func(t *testing.T) powertest.Controller {
					c := openstacktest.Start(t)
					open := func(secret power.Secret) func() (power.Driver, error) {
						return func() (power.Driver, error) {
							cfg := config(c.Cloud, openstacktest.ServerID(1))
							cfg.ApplicationCredentialSecret, cfg.SoftOff = secret, soft
							return openstack.New(cfg)
						}
					}
					controller := c.Controller(open(openstacktest.CredentialSecret), open(wrongSecret))
					// Nova tells soft-off and hard-off apart only where soft-off shelves.
					controller.NoSoftOff = nil
					return controller
				},
				Secret:      openstacktest.CredentialSecret,
				WrongSecret: wrongSecret,
				Frames:      cloudtest.Frames("openstack"),
				Lacks: map[string]string{
					"no soft off":       "Nova has one stop, which asks the operating system first",
					"no secret in argv": "the driver starts no process",
				},
			})
		})
	}
}

func TestCloud(t *testing.T) {
	cloudtest.Run(t, cloudtest.Rig{
		Start: func(t *testing.T, ids ...string) *cloudtest.Cloud { return openstacktest.Start(t, ids...).Cloud },
		ID:    openstacktest.ServerID,
		Open: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			return openstack.New(config(c, id))
		},
		OpenInsecure: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			cfg := config(c, id)
			cfg.CAFile, cfg.InsecureSkipVerify = "", true
			return openstack.New(cfg)
		},
		Rights:   "the credential may start and stop it",
		IsChange: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/action") },
		Phases:   []cloud.Phase{cloud.Starting, cloud.Busy, cloud.Leaving, cloud.Gone, cloud.Fault, cloud.Unknown},
		Secret:   openstacktest.CredentialSecret,
	})
}

// config reaches a server.
func config(c *cloudtest.Cloud, id string) openstack.Config {
	return openstack.Config{
		AuthURL: c.URL + "/identity/v3", ServerID: id, CAFile: c.CAFile,
		ApplicationCredentialID: openstacktest.CredentialID, ApplicationCredentialSecret: openstacktest.CredentialSecret,
	}
}

// open returns a driver of the first server, with changes to its config.
func open(t *testing.T, c *openstacktest.Cloud, change ...func(*openstack.Config)) power.Driver {
	t.Helper()
	cfg := config(c.Cloud, openstacktest.ServerID(1))
	for _, f := range change {
		f(&cfg)
	}
	d, err := openstack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// Which actions are sent, by state and config.
func TestActions(t *testing.T) {
	for _, a := range []struct {
		state, soft string
		phase       cloud.Phase
		do          func(context.Context, power.Driver) error
		want        []string
	}{
		{"SHUTOFF", "", cloud.Off, on, []string{"os-start"}},
		{"SHELVED", "", cloud.Off, on, []string{"unshelve"}},
		{"SHELVED_OFFLOADED", "shelve", cloud.Off, on, []string{"unshelve"}},
		{"SUSPENDED", "", cloud.Off, on, []string{"resume"}},
		{"ACTIVE", "", cloud.On, off(power.Soft), []string{"os-stop"}},
		{"ACTIVE", "stop", cloud.On, off(power.Soft), []string{"os-stop"}},
		{"ACTIVE", "shelve", cloud.On, off(power.Soft), []string{"shelve"}},
		{"ACTIVE", "shelve", cloud.On, off(power.Hard), []string{"os-stop"}},
		{"ACTIVE/powering-off", "", cloud.Stopping, off(power.Soft), nil},
		{"ACTIVE/shelving_image_uploading", "shelve", cloud.Stopping, off(power.Soft), nil},
		{"SHELVED_OFFLOADED/spawning", "", cloud.Starting, on, nil},
		{"BUILD", "", cloud.Starting, on, nil},
	} {
		t.Run(a.state+" "+a.soft, func(t *testing.T) {
			t.Parallel()
			c := openstacktest.Start(t)
			c.Set(openstacktest.ServerID(1), cloud.Instance{Phase: a.phase, State: a.state})
			d := open(t, c, func(cfg *openstack.Config) { cfg.SoftOff = a.soft })
			if err := a.do(cloudtest.Within(t), d); err != nil || !slices.Equal(c.Actions(), a.want) {
				t.Errorf("sent %q, want %q: %v", c.Actions(), a.want, err)
			}
		})
	}
}

func on(ctx context.Context, d power.Driver) error { return d.On(ctx) }

func off(how power.Off) func(context.Context, power.Driver) error {
	return func(ctx context.Context, d power.Driver) error { return d.Off(ctx, how) }
}

// What becomes of starts after they were accepted.
func TestStartsThatFail(t *testing.T) {
	for _, s := range []struct {
		name  string
		state string
		with  func(*openstacktest.Cloud)
		want  error
		says  string
	}{
		{"no hypervisor has room", "SHUTOFF", func(c *openstacktest.Cloud) {
			c.Fault("No valid host was found. There are not enough hosts available.")
		}, power.ErrCapacity, "No valid host"},
		{"fault", "SHUTOFF", func(c *openstacktest.Cloud) { c.Fault("libvirt error\nwith a second line") }, power.ErrRefused, "libvirt error with a second line"},
		{"shelved again", "SHELVED_OFFLOADED", func(c *openstacktest.Cloud) { c.NoRoom() }, power.ErrCapacity, `it is "SHELVED_OFFLOADED" again`},
		{"off again", "SHUTOFF", func(c *openstacktest.Cloud) { c.NoRoom() }, power.ErrRefused, `it is "SHUTOFF" again`},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c := openstacktest.Start(t)
			c.Set(openstacktest.ServerID(1), cloud.Instance{Phase: cloud.Off, State: s.state})
			s.with(c)
			err := open(t, c).On(cloudtest.Within(t))
			if !errors.Is(err, s.want) || !strings.Contains(err.Error(), s.says) || len(c.Actions()) != 1 {
				t.Errorf("On: %v with %d actions, want %v and %q", err, len(c.Actions()), s.want, s.says)
			}
		})
	}
}

// A server in ERROR is told with its fault.
func TestFault(t *testing.T) {
	c := openstacktest.Start(t)
	c.Set(openstacktest.ServerID(1), cloud.Instance{Phase: cloud.Fault, Why: "No valid host was found"})
	_, err := open(t, c).State(cloudtest.Within(t))
	if !errors.Is(err, power.ErrRefused) || !strings.Contains(err.Error(), `"ERROR" (No valid host was found)`) {
		t.Errorf("State: %v", err)
	}
}

func TestPages(t *testing.T) {
	ids := []string{openstacktest.ServerID(1), openstacktest.ServerID(2), openstacktest.ServerID(3)}
	c := openstacktest.Start(t, ids...)
	c.Paginate(1)
	var wg sync.WaitGroup
	for _, id := range ids {
		d := open(t, c, func(cfg *openstack.Config) { cfg.ServerID = strings.ToUpper(id) })
		wg.Go(func() {
			if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil {
				t.Errorf("%s: %s, %v", id, p, err)
			}
		})
	}
	wg.Wait()
}

// A token that was refused is fetched anew, once.
func TestRefusedToken(t *testing.T) {
	c := openstacktest.Start(t)
	d := open(t, c)
	c.Reject(1)
	if p, err := d.State(cloudtest.Within(t)); p != pool.PowerOff || err != nil || c.Logins() != 2 {
		t.Errorf("refused once: %s, %v after %d logins", p, err, c.Logins())
	}
	c.Reject(2)
	if _, err := d.State(cloudtest.Within(t)); !errors.Is(err, power.ErrAuth) || c.Logins() != 3 {
		t.Errorf("refused twice: %v after %d logins", err, c.Logins())
	}
}

// Where the catalog may send the token.
func TestCatalog(t *testing.T) {
	c := openstacktest.Start(t)
	for name, tt := range map[string]struct {
		change func(*openstack.Config)
		says   string
	}{
		"not over TLS":  {func(cfg *openstack.Config) { cfg.Interface = "internal" }, "not over TLS"},
		"no such face":  {func(cfg *openstack.Config) { cfg.Interface = "admin" }, "set region and interface"},
		"other region":  {func(cfg *openstack.Config) { cfg.Region = "RegionTwo" }, "set region and interface"},
		"its region":    {func(cfg *openstack.Config) { cfg.Region = openstacktest.Region }, ""},
		"public":        {func(cfg *openstack.Config) { cfg.Interface = "public" }, ""},
		"without /v3":   {func(cfg *openstack.Config) { cfg.AuthURL = c.URL + "/identity" }, ""},
		"with a slash":  {func(cfg *openstack.Config) { cfg.AuthURL = c.URL + "/identity/v3/" }, ""},
		"not Keystone":  {func(cfg *openstack.Config) { cfg.AuthURL = c.URL + "/v3" }, "HTTP 401"},
		"short backoff": {func(cfg *openstack.Config) { cfg.AuthBackoff = "10s" }, ""},
	} {
		_, err := open(t, c, tt.change).State(cloudtest.Within(t))
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

func TestConfig(t *testing.T) {
	powertest.RunConfig(t, powertest.ConfigRig[openstack.Config]{
		HCL: []string{`
			auth_url                      = "https://keystone.example.net:5000/v3"
			server_id                     = "9168b536-cd40-4630-b43f-b259807c6e87"
			application_credential_id     = "b6c1d9e2f3a44b5c8d7e6f5a4b3c2d1e"
			application_credential_secret = "secret-Pass1"
			region                        = "RegionOne"
			interface                     = "internal"
			soft_off                      = "shelve"
			start_wait                    = "10s"
			ca_file                       = "/etc/ssl/openstack.pem"
			timeout                       = "1m"
			auth_backoff                  = "1m"
		`, `
			auth_url                      = "https://keystone.example.net/identity"
			server_id                     = "9168B536-CD40-4630-B43F-B259807C6E87"
			application_credential_id     = "b6c1d9e2-f3a4-4b5c-8d7e-6f5a4b3c2d1e"
			application_credential_secret = "secret-Pass1"
			fingerprint                   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		`, `
			auth_url                      = "https://keystone.example.net/identity"
			server_id                     = "9168b536-cd40-4630-b43f-b259807c6e87"
			application_credential_id     = "b6c1d9e2f3a44b5c8d7e6f5a4b3c2d1e"
			application_credential_secret = "secret-Pass1"
			insecure_skip_verify          = true
		`},
		Secrets: []string{"secret-Pass1", "sesame"},
		Good: openstack.Config{
			AuthURL: "https://keystone.example.net:5000", ServerID: openstacktest.ServerID(1),
			ApplicationCredentialID: openstacktest.CredentialID, ApplicationCredentialSecret: "secret-Pass1",
		},
		Cases: []powertest.ConfigCase[openstack.Config]{
			{Name: "no URL", Change: func(c *openstack.Config) { c.AuthURL = "" }, Want: "auth_url: is empty"},
			{Name: "plain HTTP", Change: func(c *openstack.Config) { c.AuthURL = "http://keystone.example.net" }, Want: "auth_url: \"http://keystone.example.net\" is not over TLS"},
			{Name: "a name for an ID", Change: func(c *openstack.Config) { c.ServerID = "gpu-07" }, Want: `server_id: "gpu-07" is not the UUID`},
			{Name: "an ID that leads elsewhere", Change: func(c *openstack.Config) { c.ServerID = "../../x" }, Want: "server_id: "},
			{Name: "the secret for the ID", Change: func(c *openstack.Config) { c.ApplicationCredentialID = "sesame" }, Want: "application_credential_id: is not the ID"},
			{Name: "no secret", Change: func(c *openstack.Config) { c.ApplicationCredentialSecret = "" }, Want: "application_credential_secret: is empty"},
			{Name: "interface", Change: func(c *openstack.Config) { c.Interface = "eth0" }, Want: "interface: "},
			{Name: "soft_off", Change: func(c *openstack.Config) { c.SoftOff = "delete" }, Want: "soft_off: "},
		},
		Wrong: openstack.Config{Interface: "x", SoftOff: "x", StartWait: "x", Fingerprint: "x", InsecureSkipVerify: true, Timeout: "x", AuthBackoff: "x"},
		WrongIn: []string{
			"auth_url", "server_id", "application_credential_id", "application_credential_secret", "interface", "soft_off", "start_wait",
			"fingerprint", "insecure_skip_verify", "timeout", "auth_backoff",
		},
		New: func(c openstack.Config) (power.Driver, error) { return openstack.New(c) },
	})
}

// What the application credential may do shows in its roles.
func TestRights(t *testing.T) {
	for roles, want := range map[string]string{
		"reader,member": "ok: the credential may start and stop it",
		"Admin":         "ok: the credential may start and stop it",
		"reader":        "WRONG: the credential lacks the role member (it has reader)",
		"gpu-operator":  "ok: not told: Nova's own policies want the role member, and the token has [gpu-operator]",
		"":              "ok: not told: Nova's own policies want the role member, and the token has []",
	} {
		c := openstacktest.Start(t)
		c.Roles(strings.FieldsFunc(roles, func(r rune) bool { return r == ',' })...)
		got := ""
		for _, f := range open(t, c).(power.Auditor).Audit(cloudtest.Within(t)) {
			if f.About == "rights" {
				got = f.Level.String() + ": " + f.What
			}
		}
		if got != want {
			t.Errorf("with the roles %q: %q, want %q", roles, got, want)
		}
	}
}
