// Package openstack powers servers of OpenStack Nova on and off, with
// gophercloud, which logs in and sends the changes.
//
// What is sent and when is said in package cloud. On is os-start, unshelve for
// a shelved server and resume for a suspended one; it is watched for a moment,
// since Nova finds out after it was accepted whether a hypervisor has room.
// Soft-off is os-stop, or shelve where the config wants that. Hard-off is
// os-stop too: Nova has no other, and itself cuts the power of a server that
// does not shut down in its time (os_shutdown_timeout, 60 s).
package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	connections = 8
	most        = 1000 // servers in a read, which lists all anyway
	perPage     = 200  // some 5 kB each
	pages       = 20
)

// New returns the driver of one server. It reads the CA file, and sends
// nothing.
func New(c Config) (*cloud.Driver, error) {
	s, err := c.parse()
	if err != nil {
		return nil, err
	}
	id := strings.ToLower(c.ServerID)
	return cloud.New(cloud.Config{
		Driver: "openstack", ID: id, Where: "server " + id, Identity: c.Identity(),
		Account: s, Open: func() (cloud.API, error) { return newAPI(s) }, Trust: s.trust, Most: most, Limits: s.limits,
	})
}

// api is one project in one region.
type api struct {
	settings settings
	http     *http.Client
	nova     *cloud.Loan[*gophercloud.ServiceClient] // as long as its token lives
}

func newAPI(s settings) (*api, error) {
	// The catalog says where Nova is, over TLS but on any host.
	client, err := s.trust.Client(connections)
	if err != nil {
		return nil, err
	}
	a := &api{settings: s, http: client}
	a.nova = cloud.NewLoan(a.login)
	return a, nil
}

// Close closes connections.
func (a *api) Close() { a.http.CloseIdleConnections() }

// login gets a token, and finds Nova in the catalog that comes with it.
func (a *api) login(ctx context.Context) (*gophercloud.ServiceClient, time.Time, error) {
	ctx, seen := https.Watch(ctx)
	provider, err := openstack.NewClient(a.settings.authURL.String())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: nothing was sent: auth_url: %w", power.ErrUnreachable, err)
	}
	provider.HTTPClient = *a.http
	err = openstack.AuthenticateV3(ctx, provider, &tokens.AuthOptions{
		ApplicationCredentialID: a.settings.id, ApplicationCredentialSecret: a.settings.secret.Reveal(),
	}, gophercloud.EndpointOpts{})
	if err != nil {
		return nil, time.Time{}, a.failure(seen, err, false)
	}
	result, ok := provider.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return nil, time.Time{}, fmt.Errorf("%w: Keystone answers without a token", power.ErrUnreachable)
	}
	token, tokenErr := result.ExtractToken()
	catalog, catalogErr := result.ExtractServiceCatalog()
	if err := errors.Join(tokenErr, catalogErr); err != nil || token.ID == "" {
		return nil, time.Time{}, a.failure(seen, errNonsense, false)
	}
	nova, err := a.locate(provider, catalog)
	return nova, token.ExpiresAt, err
}

// locate finds Nova in a catalog.
func (a *api) locate(provider *gophercloud.ProviderClient, catalog *tokens.ServiceCatalog) (*gophercloud.ServiceClient, error) {
	// gophercloud's own way asks each candidate for its version, without a
	// deadline.
	provider.EndpointLocator = func(o gophercloud.EndpointOpts) (string, error) { return openstack.V3EndpointURL(catalog, o) }
	nova, err := openstack.NewComputeV2(provider, gophercloud.EndpointOpts{Region: a.settings.region, Availability: gophercloud.Availability(a.settings.face)})
	if err != nil {
		return nil, fmt.Errorf("%w: Keystone's catalog has no compute service for this region and interface: set region and interface: %s", power.ErrRefused, https.Brief(err.Error()))
	}
	if u, err := url.Parse(nova.Endpoint); err != nil || u.Scheme != "https" {
		return nil, fmt.Errorf("%w: Keystone's catalog says that Nova is at %.100q, which is not over TLS; set interface to one that is", power.ErrRefused, nova.Endpoint)
	}
	return nova, nil
}

// send logs in, if that is to be done, and makes a request. One that the token
// was too old for was not carried out, and is made again with a new one.
func (a *api) send(ctx context.Context, change bool, request func(context.Context, *gophercloud.ServiceClient) error) error {
	for tries := 1; ; tries++ {
		nova, err := a.nova.Get(ctx)
		if err != nil {
			return err
		}
		watched, seen := https.Watch(ctx)
		if err = request(watched, nova); err == nil {
			return nil
		}
		if !gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) || tries == 2 {
			return a.failure(seen, err, change)
		}
		a.nova.Return(nova)
	}
}

// server is what is read of one server.
type server struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Task   string `json:"OS-EXT-STS:task_state"`
	Fault  struct {
		Message string `json:"message"`
	} `json:"fault"`
}

// errNonsense is an answer that is not about what was asked.
var errNonsense = errors.New("no reply of Nova to this request")

// get reads one server, nil if it is not there.
func (a *api) get(ctx context.Context, id string) (*server, error) {
	var reply struct {
		Server *server `json:"server"`
	}
	absent := false
	err := a.send(ctx, false, func(ctx context.Context, nova *gophercloud.ServiceClient) error {
		_, err := nova.Get(ctx, nova.ServiceURL("servers", id), &reply, nil) //nolint:bodyclose // read to its end
		absent = gophercloud.ResponseCodeIs(err, http.StatusNotFound)
		switch {
		case absent:
			return nil
		case err == nil && (reply.Server == nil || !strings.EqualFold(reply.Server.ID, id)):
			return errNonsense
		}
		return err
	})
	if err != nil || absent {
		return nil, err
	}
	return reply.Server, nil
}

// Read reads servers.
func (a *api) Read(ctx context.Context, ids []string) (map[string]cloud.Instance, error) {
	found := make(map[string]cloud.Instance, len(ids))
	if len(ids) == 1 {
		s, err := a.get(ctx, ids[0])
		if err == nil && s != nil {
			found[ids[0]] = s.read()
		}
		return found, err
	}
	marker := ""
	for range pages {
		var reply struct {
			Servers *[]server `json:"servers"`
			Links   []struct {
				Rel string `json:"rel"`
			} `json:"servers_links"`
		}
		query := url.Values{"limit": {strconv.Itoa(perPage)}}
		if marker != "" {
			query.Set("marker", marker)
		}
		err := a.send(ctx, false, func(ctx context.Context, nova *gophercloud.ServiceClient) error {
			_, err := nova.Get(ctx, nova.ServiceURL("servers", "detail")+"?"+query.Encode(), &reply, nil) //nolint:bodyclose // read to its end
			if err == nil && reply.Servers == nil {
				return errNonsense
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, s := range *reply.Servers {
			marker = s.ID
			found[strings.ToLower(s.ID)] = s.read()
		}
		more := false
		for _, l := range reply.Links {
			more = more || l.Rel == "next"
		}
		if !more || len(*reply.Servers) == 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%w: its list goes on for more than %d pages", power.ErrUnreachable, pages)
}

// States that are off and are not left by os-start.
const (
	shelved   = "SHELVED" // SHELVED_OFFLOADED too
	suspended = "SUSPENDED"
)

// phases are the states of a server: "Server concepts" in Nova's API guide.
var phases = map[string]cloud.Phase{
	"ACTIVE": cloud.On, "PAUSED": cloud.On, "RESCUE": cloud.On, "PASSWORD": cloud.On,
	"BUILD":   cloud.Starting,
	"SHUTOFF": cloud.Off, "SHELVED": cloud.Off, "SHELVED_OFFLOADED": cloud.Off, suspended: cloud.Off,
	"REBOOT": cloud.Busy, "HARD_REBOOT": cloud.Busy, "MIGRATING": cloud.Busy, "REBUILD": cloud.Busy, "RESIZE": cloud.Busy,
	"REVERT_RESIZE": cloud.Busy, "VERIFY_RESIZE": cloud.Busy,
	"DELETED": cloud.Gone, "SOFT_DELETED": cloud.Gone,
	"ERROR": cloud.Fault,
}

// tasks are what a server is on its way to. Others lead elsewhere and back.
var tasks = map[string]cloud.Phase{
	"powering-on": cloud.Starting, "unshelving": cloud.Starting, "resuming": cloud.Starting,
	"scheduling": cloud.Starting, "block_device_mapping": cloud.Starting, "networking": cloud.Starting, "spawning": cloud.Starting,
	"powering-off": cloud.Stopping, "suspending": cloud.Stopping,
	"shelving": cloud.Stopping, "shelving_image_pending_upload": cloud.Stopping, "shelving_image_uploading": cloud.Stopping, "shelving_offloading": cloud.Stopping,
	"deleting": cloud.Leaving, "soft-deleting": cloud.Leaving,
}

// read is a server as package cloud has it.
func (s server) read() cloud.Instance {
	out := cloud.Instance{Phase: phases[s.Status], State: s.Status, Why: s.Fault.Message}
	if s.Task == "" || out.Phase == cloud.Gone || out.Phase == cloud.Fault || out.Phase == cloud.Unknown {
		return out
	}
	out.State += "/" + s.Task
	phase, known := tasks[s.Task]
	if !known {
		phase = cloud.Busy
	}
	out.Phase = phase
	return out
}

// Start starts a server.
func (a *api) Start(ctx context.Context, id string, was cloud.Instance) error {
	err := a.send(ctx, true, func(ctx context.Context, nova *gophercloud.ServiceClient) error {
		switch {
		case strings.HasPrefix(was.State, shelved):
			return servers.Unshelve(ctx, nova, id, servers.UnshelveOpts{}).Err
		case was.State == suspended:
			return servers.Resume(ctx, nova, id).Err
		}
		return servers.Start(ctx, nova, id).Err
	})
	if err != nil {
		return err
	}
	offs := 0
	return cloud.Follow(ctx, a.settings.startWait, func(ctx context.Context) (bool, error) {
		s, err := a.get(ctx, id)
		if err != nil || s == nil {
			return false, nil //nolint:nilerr // that it cannot be read does not end it
		}
		switch i := s.read(); i.Phase {
		case cloud.On:
			return true, nil
		case cloud.Fault:
			return true, a.fault(i.Why)
		case cloud.Off:
			if offs++; offs < 2 { // a read may come from a copy of the database
				return false, nil
			}
			class := power.ErrRefused
			if strings.HasPrefix(was.State, shelved) {
				class = power.ErrCapacity // how Nova ends an unshelving that no hypervisor has room for
			}
			return true, fmt.Errorf("%w: the start was accepted, and it is %s again", class, i)
		}
		return false, nil
	})
}

// fault is a start that ended with an error.
func (a *api) fault(message string) error {
	return rules.Failure(cloud.Answer{
		Change: true, Seen: new(https.Exchange), Code: codeOf("fault", message), Text: message,
		Else: power.ErrRefused, Secrets: []power.Secret{a.settings.secret},
	})
}

// Stop stops a server.
func (a *api) Stop(ctx context.Context, id string, _ cloud.Instance, how power.Off) error {
	return a.send(ctx, true, func(ctx context.Context, nova *gophercloud.ServiceClient) error {
		if how == power.Soft && a.settings.softOff == softShelve {
			return servers.Shelve(ctx, nova, id).Err
		}
		return servers.Stop(ctx, nova, id).Err
	})
}

// Rights looks at the roles of the token, as Nova's own policies do: "Understanding
// Nova Policies" in its administrator's guide. A cloud may have others, with roles
// of its own.
func (a *api) Rights(ctx context.Context, _ string) ([]string, error) {
	nova, err := a.nova.Get(ctx)
	if err != nil {
		return nil, err
	}
	result, ok := nova.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return nil, errNonsense
	}
	roles, err := result.ExtractRoles()
	if err != nil {
		return nil, errNonsense
	}
	var names []string
	for _, r := range roles {
		names = append(names, strings.ToLower(r.Name))
	}
	switch {
	case slices.Contains(names, "member"), slices.Contains(names, "admin"):
		return nil, nil
	case slices.Equal(names, []string{"reader"}):
		return []string{"the role member (it has reader)"}, nil
	}
	return nil, fmt.Errorf("%w: Nova's own policies want the role member, and the token has [%s]", power.ErrUnsupported, https.Brief(strings.Join(names, " ")))
}

// failure classifies what gophercloud returned for the last request.
func (a *api) failure(seen *https.Exchange, err error, change bool) error {
	answer := cloud.Answer{Change: change, Seen: seen, Secrets: []power.Secret{a.settings.secret}}
	if said := (gophercloud.ErrUnexpectedResponseCode{}); errors.As(err, &said) {
		answer.Code, answer.Text = parseFailure(said.Body) // its own text is the request and the reply
	} else {
		answer.Err = seen.Cause(err)
	}
	return rules.Failure(answer)
}

// parseFailure reads an error as Nova and Keystone write them: an object of one
// object, whose name is the code.
func parseFailure(body []byte) (code, text string) {
	var reply map[string]json.RawMessage
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) || json.Unmarshal(body, &reply) != nil || len(reply) != 1 {
		return "", ""
	}
	for name, raw := range reply {
		var e struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(raw, &e) == nil && e.Message != "" {
			return codeOf(name, e.Message), e.Message
		}
	}
	return "", ""
}

// codeOf is a code for what Nova says in words only.
func codeOf(name, message string) string {
	switch {
	case strings.Contains(message, "Quota exceeded"):
		return "QuotaExceeded"
	case strings.Contains(message, "No valid host"), strings.Contains(message, "Insufficient compute resources"):
		return "NoValidHost"
	}
	return name
}

// rules are Nova's and Keystone's names of errors. Keystone calls all of its
// "error", which are judged by the HTTP status.
var rules = cloud.Rules{
	cloud.Means(power.ErrCapacity, "no hypervisor has room for it", "NoValidHost"),
	cloud.Means(power.ErrCapacity, "the project's quota is used up", "QuotaExceeded"),
	cloud.TooOften("overLimit"),
	cloud.Means(power.ErrRefused, "it is in a state that forbids this", "conflictingRequest"),
	cloud.Means(power.ErrRefused, "there is no such server in the project", "itemNotFound"),
	cloud.Means(power.ErrRefused, "the application credential may not do this; it needs the role member", "forbidden"),
}
