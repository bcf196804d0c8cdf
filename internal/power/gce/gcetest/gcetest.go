// Package gcetest is an endpoint of the Compute Engine API for tests: one zone
// of one project over TLS, with the token endpoint of a service account.
package gcetest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
)

// The project of each endpoint.
const (
	Project = "gpupool-test"
	Zone    = "europe-west4-a"
	Email   = "gpupool@gpupool-test.iam.gserviceaccount.com"
	Token   = "ya29.gpupool-test-token"
)

// InstanceName is a name by number.
func InstanceName(n int) string { return fmt.Sprintf("gpu-%d", n) }

// Endpoint is one simulated endpoint.
type Endpoint struct {
	*cloudtest.Cloud
	cloudtest.Operations

	mu        sync.Mutex
	queries   []string // of changes, "instances/gpu-1/stop?discardLocalSsd=true"
	spot      map[string]bool
	preempted map[string]time.Time
	reject    int // requests to refuse the token of
	lifetime  int // of tokens, in seconds
	denied    []string
}

// Start starts an endpoint with instances that are stopped, InstanceName(1) if
// none are given. It ends with the test.
func Start(t testing.TB, names ...string) *Endpoint {
	t.Helper()
	if len(names) == 0 {
		names = []string{InstanceName(1)}
	}
	e := &Endpoint{spot: make(map[string]bool), preempted: make(map[string]time.Time), lifetime: 3600}
	e.Cloud = cloudtest.New(t, loopback.Options{}, e, names...)
	return e
}

var keys = [2]func() *rsa.PrivateKey{sync.OnceValue(newKey), sync.OnceValue(newKey)}

func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(fmt.Sprintf("gcetest: %v", err))
	}
	return key
}

// Credentials is the key of the service account that the endpoint at that URL
// knows, and WrongCredentials one that it does not know.
func Credentials(at string) string { return credentials(at, keys[0]()) }

// WrongCredentials is a key that the endpoint does not know.
func WrongCredentials(at string) string { return credentials(at, keys[1]()) }

func credentials(at string, key *rsa.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(fmt.Sprintf("gcetest: %v", err))
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": Project, "private_key_id": "1", "client_email": Email, "token_uri": at + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		panic(fmt.Sprintf("gcetest: %v", err))
	}
	return string(text)
}

func (e *Endpoint) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// Reject refuses the access token of the next n requests.
func (e *Endpoint) Reject(n int) { e.set(func() { e.reject = n }) }

// Deny takes a right of the service account, such as "compute.instances.start".
func (e *Endpoint) Deny(right string) { e.set(func() { e.denied = append(e.denied, right) }) }

// Spot makes an instance a spot instance, which was preempted at a time unless
// that is zero.
func (e *Endpoint) Spot(name string, preempted time.Time) {
	e.set(func() { e.spot[name], e.preempted[name] = true, preempted })
}

// Changes are the paths and queries of the changes so far.
func (e *Endpoint) Changes() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.queries...)
}

type object = map[string]any

// started is when all instances were started last.
var started = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Started is when all instances were started last.
func Started() time.Time { return started }

const prefix = "/compute/v1/projects/" + Project + "/zones/" + Zone + "/"

// Serve answers one request.
func (e *Endpoint) Serve(c *cloudtest.Cloud, w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		if c.Login(w, asserted(r, keys[0](), e.URL+"/token")) {
			write(w, http.StatusOK, object{"access_token": Token, "expires_in": e.lifetime, "token_type": "Bearer"})
		}
		return
	}
	e.mu.Lock()
	reject := e.reject > 0
	if reject {
		e.reject--
	}
	e.mu.Unlock()
	if reject || r.Header.Get("Authorization") != "Bearer "+Token {
		fail(w, http.StatusUnauthorized, "authError", "Request had invalid authentication credentials.")
		return
	}
	if !c.Admit(w) {
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, prefix)
	parts := strings.Split(path, "/")
	switch {
	case !ok:
		e.Fail(w, cloudtest.NotFound)
	case path == "instances" && r.Method == http.MethodGet:
		e.list(w, r.FormValue("filter"))
	case path == "operations" && r.Method == http.MethodGet:
		e.operations(w)
	case len(parts) == 2 && parts[0] == "operations" && r.Method == http.MethodGet:
		n := 0
		_, _ = fmt.Sscanf(parts[1], operationName, &n) // there is none of number 0
		e.operation(w, n)
	case len(parts) == 3 && parts[0] == "instances" && parts[2] == "testIamPermissions" && r.Method == http.MethodPost:
		e.permissions(w, r, parts[1])
	case len(parts) == 3 && parts[0] == "instances" && r.Method == http.MethodPost:
		e.change(w, r, parts[1], parts[2])
	default:
		e.Fail(w, cloudtest.NotFound)
	}
}

// asserted says whether a token is asked for with a JWT of the account's key:
// RFC 7523.
func asserted(r *http.Request, key *rsa.PrivateKey, audience string) bool {
	parts := strings.Split(r.PostFormValue("assertion"), ".")
	if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || len(parts) != 3 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], signature) != nil {
		return false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Iss, Scope, Aud string
		Exp             int64
	}
	return err == nil && json.Unmarshal(text, &claims) == nil && claims.Iss == Email && claims.Aud == audience &&
		claims.Scope == "https://www.googleapis.com/auth/compute" && claims.Exp > time.Now().Unix()
}

var states = map[cloud.Phase]string{
	cloud.Starting: "STAGING",
	cloud.On:       "RUNNING",
	cloud.Stopping: "STOPPING",
	cloud.Off:      "TERMINATED",
	cloud.Busy:     "REPAIRING",
	cloud.Leaving:  "DEPROVISIONING",
	cloud.Unknown:  "PONDERING",
}

// term is one term of a filter.
var term = regexp.MustCompile(`\(name = "([a-z0-9-]+)"\)`)

func (e *Endpoint) list(w http.ResponseWriter, filter string) {
	if strings.TrimSpace(strings.ReplaceAll(term.ReplaceAllString(filter, ""), " OR ", "")) != "" {
		fail(w, http.StatusBadRequest, "invalid", "Invalid value for field 'filter'")
		return
	}
	items := []object{}
	for _, m := range term.FindAllStringSubmatch(filter, -1) {
		i, ok := e.Get(m[1])
		if !ok {
			continue
		}
		state := states[i.Phase]
		if i.State != "" {
			state = i.State
		}
		model := "STANDARD"
		e.mu.Lock()
		if e.spot[m[1]] {
			model = "SPOT"
		}
		e.mu.Unlock()
		items = append(items, object{
			"name": m[1], "status": state, "statusMessage": i.Why, "lastStartTimestamp": started.Format(time.RFC3339Nano),
			"scheduling": object{"preemptible": false, "provisioningModel": model},
		})
	}
	write(w, http.StatusOK, object{"kind": "compute#instanceList", "items": items})
}

func (e *Endpoint) operations(w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	items := []object{}
	for name, at := range e.preempted {
		if !at.IsZero() {
			items = append(items, object{
				"operationType": "compute.instances.preempted", "insertTime": at.Format(time.RFC3339Nano), "status": "DONE",
				"targetLink": "https://www.googleapis.com" + prefix + "instances/" + name,
			})
		}
	}
	write(w, http.StatusOK, object{"kind": "compute#operationList", "items": items})
}

func (e *Endpoint) change(w http.ResponseWriter, r *http.Request, name, verb string) {
	do, ok := map[string]cloudtest.Do{"start": cloudtest.Start, "resume": cloudtest.Start, "stop": cloudtest.SoftStop}[verb]
	if !ok {
		e.Fail(w, cloudtest.NotFound)
		return
	}
	if r.FormValue("noGracefulShutdown") == "true" {
		do = cloudtest.HardStop
	}
	e.set(func() {
		e.queries = append(e.queries, strings.TrimSuffix(strings.TrimPrefix(r.URL.RequestURI(), prefix), "?"))
	})
	n, fails := e.Begin()
	if fails {
		e.operation(w, n)
		return
	}
	e.Change(w, name, do, func() { e.operation(w, n) })
}

const operationName = "operation-%d"

func (e *Endpoint) operation(w http.ResponseWriter, n int) {
	over, failed, ok := e.Look(n)
	o := object{"kind": "compute#operation", "name": fmt.Sprintf(operationName, n), "status": "DONE"}
	switch {
	case !ok:
		e.Fail(w, cloudtest.NotFound)
		return
	case !over:
		o["status"] = "RUNNING"
	case failed != nil:
		o["error"] = object{"errors": []object{{"code": failed.Code, "message": failed.Message}}}
	}
	write(w, http.StatusOK, o)
}

// permissions answers instances.testIamPermissions.
func (e *Endpoint) permissions(w http.ResponseWriter, r *http.Request, name string) {
	var asked struct{ Permissions []string }
	if _, ok := e.Get(name); !ok || json.NewDecoder(r.Body).Decode(&asked) != nil {
		e.Fail(w, cloudtest.NotFound)
		return
	}
	e.mu.Lock()
	has := slices.DeleteFunc(asked.Permissions, func(p string) bool { return slices.Contains(e.denied, p) })
	e.mu.Unlock()
	reply := object{}
	if len(has) > 0 {
		reply["permissions"] = has
	}
	write(w, http.StatusOK, reply)
}

// Fail answers as Compute Engine does.
func (e *Endpoint) Fail(w http.ResponseWriter, f cloudtest.Failure) {
	switch f {
	case cloudtest.BadLogin:
		write(w, http.StatusBadRequest, object{"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
	case cloudtest.NoCapacity:
		fail(w, http.StatusServiceUnavailable, "ZONE_RESOURCE_POOL_EXHAUSTED", "The zone does not have enough resources available to fulfill the request.")
	case cloudtest.Throttled:
		fail(w, http.StatusForbidden, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'.")
	case cloudtest.NoSoftOff:
		fail(w, http.StatusBadRequest, "unsupportedOperation", "Instances with local SSDs need the parameter discardLocalSsd")
	case cloudtest.NotFound:
		fail(w, http.StatusNotFound, "notFound", "The resource was not found")
	case cloudtest.WrongState:
		fail(w, http.StatusBadRequest, "resourceNotReady", "The resource is not ready")
	default:
		fail(w, http.StatusPreconditionFailed, "conditionNotMet", "Constraint violated for the project.")
	}
}

func fail(w http.ResponseWriter, status int, reason, message string) {
	write(w, status, object{"error": object{"code": status, "message": message, "errors": []object{{"reason": reason, "message": message, "domain": "global"}}}})
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone otherwise
}
