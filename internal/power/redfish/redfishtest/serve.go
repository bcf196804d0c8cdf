package redfishtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	rootPath     = "/redfish/v1/"
	systemsPath  = rootPath + "Systems"
	sessionsPath = rootPath + "SessionService/Sessions"
	monitorsPath = rootPath + "TaskService/TaskMonitors/"
	maxRequest   = 64 << 10 // bytes
	taskTime     = 150 * time.Millisecond
)

// object is a Redfish resource.
type object = map[string]any

func link(path string) object { return object{"@odata.id": path} }

// ServeHTTP answers one request.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	intercept := s.faults.intercept
	s.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	p := strings.TrimSuffix(r.URL.Path, "/")
	open := p == "/redfish" || p+"/" == rootPath || (p == sessionsPath && r.Method == http.MethodPost)
	if !open && !s.authorised(w, r) {
		return
	}
	switch dir, base := path.Split(p); {
	case p == "/redfish":
		write(w, http.StatusOK, object{"v1": rootPath})
	case p+"/" == rootPath:
		write(w, http.StatusOK, s.root())
	case p == rootPath+"SessionService":
		write(w, http.StatusOK, object{
			"@odata.id": p, "@odata.type": "#SessionService.v1_1_8.SessionService", "Id": "SessionService",
			"Name": "Sessions", "ServiceEnabled": true, "SessionTimeout": 1800, "Sessions": link(sessionsPath),
		})
	case p == rootPath+"AccountService":
		write(w, http.StatusOK, s.accounts(p))
	case p == sessionsPath && r.Method == http.MethodPost:
		s.openSession(w, r)
	case dir == sessionsPath+"/" && r.Method == http.MethodDelete:
		s.closeSession(w, p)
	case p == systemsPath:
		write(w, http.StatusOK, s.collection())
	case dir == systemsPath+"/" && slices.Contains(s.options.Systems, base):
		s.system(w, r, p, base)
	case base == "ResetActionInfo" && s.options.ActionInfo:
		write(w, http.StatusOK, s.actionInfo(p))
	case base == "ComputerSystem.Reset" && r.Method == http.MethodPost:
		s.reset(w, r)
	case strings.HasPrefix(p, monitorsPath):
		s.monitor(w, p)
	default:
		Fail(w, http.StatusNotFound, "Base.1.18.ResourceMissingAtURI", "The resource at the URI "+p+" was not found.")
	}
}

func (s *Service) root() object {
	return object{
		"@odata.id": rootPath, "@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot", "Id": "RootService", "Name": "Root Service",
		"RedfishVersion": "1.18.0", "UUID": "92384634-2938-2342-8820-489239905423", "Vendor": s.options.Vendor,
		"Systems": link(systemsPath), "SessionService": link(rootPath + "SessionService"),
		"Links": object{"Sessions": link(sessionsPath)},
	}
}

func (s *Service) accounts(p string) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return object{
		"@odata.id": p, "@odata.type": "#AccountService.v1_15_0.AccountService", "Id": "AccountService", "Name": "Accounts",
		"AccountLockoutThreshold": s.faults.lockAfter, "AccountLockoutDuration": 300,
	}
}

func (s *Service) collection() object {
	var members []object
	for _, id := range s.options.Systems {
		members = append(members, link(systemsPath+"/"+id))
	}
	return object{
		"@odata.id": systemsPath, "@odata.type": "#ComputerSystemCollection.ComputerSystemCollection",
		"Name": "Computer System Collection", "Members": members, "Members@odata.count": len(members),
	}
}

func (s *Service) system(w http.ResponseWriter, r *http.Request, p, id string) {
	var hardware string
	if h := s.options.Hardware; h != nil {
		on, err := h.On(r.Context())
		if err != nil {
			Fail(w, http.StatusServiceUnavailable, "Base.1.18.ServiceTemporarilyUnavailable", err.Error())
			return
		}
		hardware = map[bool]string{true: "On", false: "Off"}[on]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	reset := object{"target": p + "/Actions/ComputerSystem.Reset"}
	if s.options.ActionInfo {
		reset["@Redfish.ActionInfo"] = p + "/ResetActionInfo"
	} else {
		reset["ResetType@Redfish.AllowableValues"] = s.options.Resets
	}
	state := "On"
	if id == s.options.Systems[0] {
		state = s.chassis.state(time.Now())
	}
	if hardware != "" {
		state = hardware
	}
	o := object{
		"@odata.id": p, "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem", "Id": id, "Name": "host " + id,
		"SystemType": "Physical", "Manufacturer": "gpupool", "Model": "simulator", "SerialNumber": "1", "UUID": "38947555-7742-3448-3784-823347823834",
		"Status": object{"State": "Enabled", "Health": "OK"}, "PowerState": state,
		"Boot": object{
			"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None",
			"BootSourceOverrideTarget@Redfish.AllowableValues": []string{"None", "Pxe", "Hdd"},
		},
		"Actions": object{"#ComputerSystem.Reset": reset},
	}
	if s.options.Extra != "" {
		if err := json.Unmarshal([]byte("{"+s.options.Extra+"}"), &o); err != nil {
			panic(fmt.Sprintf("redfishtest: Options.Extra: %v", err))
		}
	}
	write(w, http.StatusOK, o)
}

func (s *Service) actionInfo(p string) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return object{
		"@odata.id": p, "@odata.type": "#ActionInfo.v1_4_0.ActionInfo", "Id": "ResetActionInfo", "Name": "Reset Action Info",
		"Parameters": []object{{"Name": "ResetType", "Required": true, "DataType": "String", "AllowableValues": s.options.Resets}},
	}
}

// state is the PowerState that is reported.
func (c *chassis) state(now time.Time) string {
	on := c.on
	switch {
	case now.Sub(c.changedAt) < c.stale:
		on = !on
	case now.Before(c.moving) && on:
		return "PoweringOn"
	case now.Before(c.moving):
		return "PoweringOff"
	}
	if on {
		return "On"
	}
	return "Off"
}

// authorised checks the credential that a request brings, or answers that it is
// not good.
func (s *Service) authorised(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.sessions[r.Header.Get("X-Auth-Token")]; ok {
		return true
	}
	user, password, ok := r.BasicAuth()
	if ok && s.login(user, password) {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="redfish"`)
	Fail(w, http.StatusUnauthorized, "Base.1.18.NoValidSession", "There is no valid session established with the implementation.")
	return false
}

// login checks a password, unless the account is locked.
func (s *Service) login(user, password string) bool {
	s.logins++
	if locked := s.faults.lockAfter > 0 && s.failed >= s.faults.lockAfter; locked || user != s.options.Username || password != s.options.Password {
		s.failed++
		return false
	}
	s.failed = 0
	return true
}

func (s *Service) openSession(w http.ResponseWriter, r *http.Request) {
	var body struct{ UserName, Password string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		Fail(w, http.StatusBadRequest, "Base.1.18.MalformedJSON", "The request body submitted was malformed JSON.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.login(body.UserName, body.Password) {
		Fail(w, http.StatusUnauthorized, "Base.1.18.ResourceAtUriUnauthorized", "While accessing the resource, the service received an authorization error.")
		return
	}
	if most := s.faults.sessions; most > 0 && len(s.sessions) >= most {
		Fail(w, http.StatusServiceUnavailable, "Base.1.18.SessionLimitExceeded", "The session establishment failed due to the number of simultaneous sessions exceeding the limit of the implementation.")
		return
	}
	s.seq++
	p, token := fmt.Sprintf("%s/%d", sessionsPath, s.seq), fmt.Sprintf("token-%d", s.seq)
	s.sessions[token] = p
	w.Header().Set("X-Auth-Token", token)
	w.Header().Set("Location", p)
	write(w, http.StatusCreated, object{"@odata.id": p, "@odata.type": "#Session.v1_6_0.Session", "Id": path.Base(p), "Name": "User Session", "UserName": body.UserName})
}

func (s *Service) closeSession(w http.ResponseWriter, p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, known := range s.sessions {
		if known == p {
			delete(s.sessions, token)
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	Fail(w, http.StatusNotFound, "Base.1.18.ResourceMissingAtURI", "no such session")
}

// reset carries a change out, in the way that the faults want it.
func (s *Service) reset(w http.ResponseWriter, r *http.Request) {
	var body struct{ ResetType string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		Fail(w, http.StatusBadRequest, "Base.1.18.MalformedJSON", "The request body submitted was malformed JSON.")
		return
	}
	s.mu.Lock()
	f, offered := s.faults, slices.Contains(s.options.Resets, body.ResetType)
	busy := s.task != nil && time.Now().Before(s.task.until)
	s.mu.Unlock()
	switch {
	case !offered:
		Fail(w, http.StatusBadRequest, "Base.1.18.ActionParameterNotSupported", "The parameter ResetType for the action ComputerSystem.Reset is not supported on the target resource.")
		return
	case busy:
		Fail(w, http.StatusConflict, "Base.1.18.ResourceInUse", "The change to the requested resource failed because the resource is in use or in transition.")
		return
	case f.tasks:
		s.startTask(w, body.ResetType, f.taskFails)
		return
	}
	if h := s.options.Hardware; h != nil {
		if err := h.Reset(r.Context(), body.ResetType); err != nil {
			Fail(w, http.StatusInternalServerError, "Base.1.18.InternalError", err.Error())
			return
		}
		s.mu.Lock()
		s.resets = append(s.resets, body.ResetType)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.Sleep(f.late)
	s.carryOut(body.ResetType, f.ignoreSoft)
	switch f.lose {
	case withheld:
		s.Sleep(time.Hour)
	case cut:
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
}

// carryOut does to the chassis what a ResetType says. What is done already is
// not done again.
func (s *Service) carryOut(reset string, ignoreSoft bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var on bool
	switch reset {
	case "On", "ForceOn":
		on = true
	case "PushPowerButton":
		on = !s.chassis.on
	case "GracefulShutdown":
		if ignoreSoft {
			return
		}
	case "ForceOff":
	default: // a restart
		on = s.chassis.on
	}
	if on == s.chassis.on && (reset == "On" || reset == "ForceOn" || reset == "ForceOff" || reset == "GracefulShutdown") {
		return
	}
	s.resets = append(s.resets, reset)
	now := time.Now()
	s.chassis.on, s.chassis.changedAt, s.chassis.moving = on, now, now.Add(s.chassis.transit)
}

// startTask accepts a change as a task that takes a moment.
func (s *Service) startTask(w http.ResponseWriter, reset, fails string) {
	s.mu.Lock()
	s.seq++
	t := &task{path: fmt.Sprintf("%s%d", monitorsPath, s.seq), until: time.Now().Add(taskTime), fails: fails}
	s.task = t
	s.mu.Unlock()
	if fails == "" {
		time.AfterFunc(taskTime, func() { s.carryOut(reset, false) })
	}
	w.Header().Set("Location", t.path)
	write(w, http.StatusAccepted, t.object("Running"))
}

func (t *task) object(state string) object {
	o := object{
		"@odata.id": rootPath + "TaskService/Tasks/" + path.Base(t.path), "@odata.type": "#Task.v1_7_1.Task",
		"Id": path.Base(t.path), "Name": "reset", "TaskState": state, "TaskMonitor": t.path,
	}
	if state == "Exception" {
		o["Messages"] = []object{{"MessageId": "Base.1.18.GeneralError", "Message": t.fails}}
	}
	return o
}

func (s *Service) monitor(w http.ResponseWriter, p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t := s.task; {
	case t == nil || t.path != p:
		Fail(w, http.StatusNotFound, "Base.1.18.ResourceMissingAtURI", "no such task")
	case time.Now().Before(t.until):
		write(w, http.StatusAccepted, t.object("Running"))
	case t.fails != "":
		write(w, http.StatusOK, t.object("Exception"))
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
