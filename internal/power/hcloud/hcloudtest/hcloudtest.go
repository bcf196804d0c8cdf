// Package hcloudtest is an endpoint of the Hetzner Cloud API for tests: one
// project over TLS.
package hcloudtest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// Token is the token of each endpoint's project.
const Token = "jEheVytlAoFl7F8MqUQ7jAo2hOXASztXGPUPOOL"

// ServerID is a number of a server, as text.
func ServerID(n int) string { return strconv.Itoa(4711000 + n) }

// Endpoint is one simulated endpoint. Its URL has the path /v1 besides.
type Endpoint struct {
	*cloudtest.Cloud
	cloudtest.Operations // the actions

	mu  sync.Mutex
	did []string // commands, in order
}

// Start starts an endpoint with servers that are off, ServerID(1) if none are
// given. It ends with the test.
func Start(t testing.TB, ids ...string) *Endpoint {
	t.Helper()
	if len(ids) == 0 {
		ids = []string{ServerID(1)}
	}
	e := new(Endpoint)
	e.Cloud = cloudtest.New(t, loopback.Options{}, e, ids...)
	return e
}

// Commands are the actions that were asked for, in order.
func (e *Endpoint) Commands() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.did...)
}

type object = map[string]any

// Serve answers one request.
func (e *Endpoint) Serve(c *cloudtest.Cloud, w http.ResponseWriter, r *http.Request) {
	if !c.Login(w, r.Header.Get("Authorization") == "Bearer "+Token) || !c.Admit(w) {
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	parts := strings.Split(path, "/")
	switch {
	case !ok:
		e.Fail(w, cloudtest.NotFound)
	case path == "servers" && r.Method == http.MethodGet:
		e.list(w, r)
	case len(parts) == 2 && parts[0] == "servers" && r.Method == http.MethodGet:
		if s, ok := e.server(parts[1]); ok {
			write(w, http.StatusOK, object{"server": s})
			return
		}
		e.Fail(w, cloudtest.NotFound)
	case len(parts) == 2 && parts[0] == "actions" && r.Method == http.MethodGet:
		n, _ := strconv.Atoi(parts[1])
		e.action(w, n)
	case len(parts) == 4 && parts[0] == "servers" && parts[2] == "actions" && r.Method == http.MethodPost:
		e.change(w, parts[1], parts[3])
	default:
		e.Fail(w, cloudtest.NotFound)
	}
}

var states = map[cloud.Phase]string{
	cloud.Starting: "starting",
	cloud.On:       "running",
	cloud.Stopping: "stopping",
	cloud.Off:      "off",
	cloud.Busy:     "migrating",
	cloud.Leaving:  "deleting",
	cloud.Unknown:  "unknown",
}

func (e *Endpoint) server(id string) (object, bool) {
	i, ok := e.Get(id)
	n, err := strconv.ParseInt(id, 10, 64)
	return object{"id": n, "name": "server-" + id, "status": states[i.Phase], "created": "2026-11-01T12:00:00+00:00"}, ok && err == nil
}

func (e *Endpoint) list(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.FormValue("page"))
	size, _ := strconv.Atoi(r.FormValue("per_page"))
	page, size = max(page, 1), min(max(size, 1), 50)
	ids := e.IDs()
	from, to := min((page-1)*size, len(ids)), min(page*size, len(ids))
	servers := []object{}
	for _, id := range ids[from:to] {
		s, _ := e.server(id)
		servers = append(servers, s)
	}
	var next any
	if to < len(ids) {
		next = page + 1
	}
	write(w, http.StatusOK, object{"servers": servers, "meta": object{"pagination": object{
		"page": page, "per_page": size, "previous_page": nil, "next_page": next, "last_page": (len(ids) + size - 1) / size, "total_entries": len(ids),
	}}})
}

func (e *Endpoint) change(w http.ResponseWriter, id, command string) {
	do, ok := map[string]cloudtest.Do{"poweron": cloudtest.Start, "shutdown": cloudtest.SoftStop, "poweroff": cloudtest.HardStop}[command]
	if !ok {
		e.Fail(w, cloudtest.NotFound)
		return
	}
	e.mu.Lock()
	e.did = append(e.did, command)
	e.mu.Unlock()
	n, fails := e.Begin()
	if fails {
		e.action(w, n)
		return
	}
	e.Change(w, id, do, func() { e.action(w, n) })
}

func (e *Endpoint) action(w http.ResponseWriter, n int) {
	over, failed, ok := e.Look(n)
	a := object{"id": n, "command": "start_server", "status": "success", "progress": 100, "started": "2026-11-01T12:00:00+00:00", "resources": []object{}, "error": nil}
	switch {
	case !ok:
		e.Fail(w, cloudtest.NotFound)
		return
	case !over:
		a["status"] = "running"
	case failed != nil:
		a["status"], a["error"] = "error", object{"code": failed.Code, "message": failed.Message}
	}
	write(w, http.StatusCreated, object{"action": a})
}

// Fail answers as Hetzner Cloud does.
func (e *Endpoint) Fail(w http.ResponseWriter, f cloudtest.Failure) {
	switch f {
	case cloudtest.BadLogin:
		fail(w, http.StatusUnauthorized, "unauthorized", "unable to authenticate")
	case cloudtest.NoCapacity:
		fail(w, http.StatusPreconditionFailed, "resource_unavailable", "server location disabled")
	case cloudtest.Throttled:
		fail(w, http.StatusTooManyRequests, "rate_limit_exceeded", "limit of 3600 requests per hour reached")
	case cloudtest.NoSoftOff:
		fail(w, http.StatusUnprocessableEntity, "unsupported_error", "this server does not support that")
	case cloudtest.NotFound:
		fail(w, http.StatusNotFound, "not_found", "server not found")
	case cloudtest.WrongState:
		fail(w, http.StatusLocked, "locked", "server is locked")
	default:
		fail(w, http.StatusForbidden, "protected", "server is protected")
	}
}

func fail(w http.ResponseWriter, status int, code, message string) {
	write(w, status, object{"error": object{"code": code, "message": message, "details": nil}})
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone otherwise
}
