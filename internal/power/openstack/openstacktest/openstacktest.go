// Package openstacktest is a Keystone and a Nova for tests: one project in one
// region, both over TLS at one address.
package openstacktest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// The application credential of each cloud, its region, and its token.
const (
	CredentialID     = "b6c1d9e2f3a44b5c8d7e6f5a4b3c2d1e"
	CredentialSecret = "gpupool-application-secret"
	Region           = "RegionOne"
	token            = "gAAAAABgpupooltesttoken"
)

// ServerID is a UUID by number.
func ServerID(n int) string { return fmt.Sprintf("9168b536-cd40-4630-b43f-%012x", n) }

// Cloud is one simulated cloud. AuthURL is at its URL.
type Cloud struct {
	*cloudtest.Cloud

	mu      sync.Mutex
	catalog string // URL of Nova, that of the cloud itself if empty
	actions []string
	reject  int  // requests to refuse the token of
	page    int  // servers on a page, at most what is asked for if 0
	noRoom  bool // starts are accepted and come to nothing
	faulty  string
	roles   []string // of the application credential
}

// Start starts a cloud with servers that are off, ServerID(1) if none are given.
// It ends with the test.
func Start(t testing.TB, ids ...string) *Cloud {
	t.Helper()
	if len(ids) == 0 {
		ids = []string{ServerID(1)}
	}
	c := &Cloud{roles: []string{"reader", "member"}}
	c.Cloud = cloudtest.New(t, loopback.Options{}, c, ids...)
	return c
}

func (c *Cloud) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// Catalog makes the catalog say that Nova is there.
func (c *Cloud) Catalog(at string) { c.set(func() { c.catalog = at }) }

// Reject refuses the token of the next n requests.
func (c *Cloud) Reject(n int) { c.set(func() { c.reject = n }) }

// Paginate answers lists in pages of at most n servers.
func (c *Cloud) Paginate(n int) { c.set(func() { c.page = n }) }

// NoRoom makes starts be accepted and come to nothing.
func (c *Cloud) NoRoom() { c.set(func() { c.noRoom = true }) }

// Fault makes starts be accepted and end in ERROR with that message.
func (c *Cloud) Fault(message string) { c.set(func() { c.faulty = message }) }

// Roles are those of the application credential.
func (c *Cloud) Roles(names ...string) { c.set(func() { c.roles = names }) }

// Actions are the actions that were asked for, in order.
func (c *Cloud) Actions() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.actions)
}

type object = map[string]any

// Serve answers one request.
func (c *Cloud) Serve(_ *cloudtest.Cloud, w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/identity/v3/auth/tokens" && r.Method == http.MethodPost {
		c.login(w, r)
		return
	}
	c.mu.Lock()
	reject := c.reject > 0
	if reject {
		c.reject--
	}
	c.mu.Unlock()
	if reject || r.Header.Get("X-Auth-Token") != token {
		c.Fail(w, cloudtest.BadLogin)
		return
	}
	if !c.Admit(w) {
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/compute/v2.1/servers/")
	id, action := strings.CutSuffix(path, "/action")
	switch {
	case !ok:
		c.Fail(w, cloudtest.NotFound)
	case path == "detail" && r.Method == http.MethodGet:
		c.list(w, r)
	case action && r.Method == http.MethodPost:
		c.act(w, r, id)
	case r.Method == http.MethodGet:
		if s, ok := c.server(path); ok {
			write(w, http.StatusOK, object{"server": s})
			return
		}
		c.Fail(w, cloudtest.NotFound)
	default:
		c.Fail(w, cloudtest.NotFound)
	}
}

func (c *Cloud) login(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Auth struct {
			Identity struct {
				Methods               []string
				ApplicationCredential struct{ ID, Secret string } `json:"application_credential"`
			}
		}
	}
	given := &body.Auth.Identity
	err := json.NewDecoder(r.Body).Decode(&body)
	good := err == nil && slices.Equal(given.Methods, []string{"application_credential"}) &&
		given.ApplicationCredential.ID == CredentialID && given.ApplicationCredential.Secret == CredentialSecret
	if !c.Login(w, good) {
		return
	}
	c.mu.Lock()
	at := c.catalog
	roles := []object{}
	for _, name := range c.roles {
		roles = append(roles, object{"id": "id-of-" + name, "name": name})
	}
	c.mu.Unlock()
	if at == "" {
		at = c.URL
	}
	w.Header().Set("X-Subject-Token", token)
	write(w, http.StatusCreated, object{"token": object{
		"methods": []string{"application_credential"}, "roles": roles, "issued_at": time.Now().UTC().Format(time.RFC3339Nano),
		"expires_at": time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z"),
		"catalog": []object{{"type": "compute", "name": "nova", "id": "1", "endpoints": []object{
			{"id": "1", "interface": "public", "region": Region, "region_id": Region, "url": at + "/compute/v2.1"},
			{"id": "2", "interface": "internal", "region": Region, "region_id": Region, "url": "http://nova.internal/compute/v2.1"},
		}}},
	}})
}

// states are the status and task of each phase.
var states = map[cloud.Phase][2]string{
	cloud.Starting: {"SHUTOFF", "powering-on"},
	cloud.On:       {"ACTIVE", ""},
	cloud.Stopping: {"ACTIVE", "powering-off"},
	cloud.Off:      {"SHUTOFF", ""},
	cloud.Busy:     {"ACTIVE", "migrating"},
	cloud.Leaving:  {"ACTIVE", "deleting"},
	cloud.Gone:     {"DELETED", ""},
	cloud.Fault:    {"ERROR", ""},
	cloud.Unknown:  {"UNKNOWN", ""},
}

func (c *Cloud) server(id string) (object, bool) {
	i, ok := c.Get(id)
	s := states[i.Phase]
	if i.State != "" {
		s[0], s[1], _ = strings.Cut(i.State, "/")
	}
	o := object{"id": id, "name": "server-" + id, "status": s[0], "OS-EXT-STS:task_state": nil, "OS-EXT-STS:power_state": 1}
	if s[1] != "" {
		o["OS-EXT-STS:task_state"] = s[1]
	}
	if s[0] == "ERROR" {
		o["fault"] = object{"code": 500, "message": i.Why, "created": "2026-11-01T12:00:00Z"}
	}
	return o, ok
}

func (c *Cloud) list(w http.ResponseWriter, r *http.Request) {
	ids := c.IDs()
	if marker := r.FormValue("marker"); marker != "" {
		ids = slices.DeleteFunc(ids, func(id string) bool { return id <= marker })
	}
	limit := 1000
	_, _ = fmt.Sscan(r.FormValue("limit"), &limit)
	c.mu.Lock()
	if c.page > 0 {
		limit = min(limit, c.page)
	}
	c.mu.Unlock()
	reply := object{}
	if len(ids) > limit {
		ids = ids[:limit]
		reply["servers_links"] = []object{{"rel": "next", "href": c.URL + "/compute/v2.1/servers/detail?marker=" + ids[limit-1]}}
	}
	all := []object{}
	for _, id := range ids {
		s, _ := c.server(id)
		all = append(all, s)
	}
	reply["servers"] = all
	write(w, http.StatusOK, reply)
}

func (c *Cloud) act(w http.ResponseWriter, r *http.Request, id string) {
	body, _ := io.ReadAll(r.Body) // what is cut off is no JSON
	var request map[string]any
	if json.Unmarshal(body, &request) != nil || len(request) != 1 {
		write(w, http.StatusBadRequest, object{"badRequest": object{"code": 400, "message": "Malformed request body"}})
		return
	}
	for action := range request {
		do, ok := map[string]cloudtest.Do{
			"os-start": cloudtest.Start, "unshelve": cloudtest.Start, "resume": cloudtest.Start, "os-stop": cloudtest.SoftStop, "shelve": cloudtest.SoftStop,
		}[action]
		if !ok {
			write(w, http.StatusBadRequest, object{"badRequest": object{"code": 400, "message": "There is no such action: " + action}})
			return
		}
		c.mu.Lock()
		c.actions = append(c.actions, action)
		noRoom, faulty := c.noRoom, c.faulty
		c.mu.Unlock()
		switch {
		case do == cloudtest.Start && noRoom:
			w.WriteHeader(http.StatusAccepted)
		case do == cloudtest.Start && faulty != "":
			c.Set(id, cloud.Instance{Phase: cloud.Fault, Why: faulty})
			w.WriteHeader(http.StatusAccepted)
		default:
			c.Change(w, id, do, func() { w.WriteHeader(http.StatusAccepted) })
		}
	}
}

// Fail answers as Nova and Keystone do.
func (c *Cloud) Fail(w http.ResponseWriter, f cloudtest.Failure) {
	nova := func(status int, name, message string) {
		write(w, status, object{name: object{"code": status, "message": message}})
	}
	switch f {
	case cloudtest.BadLogin:
		nova(http.StatusUnauthorized, "error", "The request you have made requires authentication.")
	case cloudtest.NoCapacity:
		nova(http.StatusForbidden, "forbidden", "Quota exceeded for cores: Requested 96, but already used 960 of 1000 cores")
	case cloudtest.Throttled:
		nova(http.StatusTooManyRequests, "overLimit", "Only 10 POST request(s) can be made to * every minute.")
	case cloudtest.NoSoftOff:
		nova(http.StatusForbidden, "forbidden", "Policy doesn't allow os_compute_api:servers:stop to be performed.")
	case cloudtest.NotFound:
		nova(http.StatusNotFound, "itemNotFound", "Instance could not be found.")
	case cloudtest.WrongState:
		nova(http.StatusConflict, "conflictingRequest", "Cannot 'start' instance while it is in task_state powering-off")
	default:
		nova(http.StatusConflict, "conflictingRequest", "Instance is locked")
	}
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone otherwise
}
