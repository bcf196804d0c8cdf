package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/stmcginnis/gofish"
	"github.com/stmcginnis/gofish/schemas"

	"github.com/gpupool/gpupool/internal/pool"
	"github.com/gpupool/gpupool/internal/power"
)

// system is what the driver reads of a ComputerSystem. It is not gofish's own
// type of that name, which has some hundred properties and refuses the whole
// system when a BMC gets the type of one of them wrong.
type system struct {
	schemas.Entity
	PowerState string
	Actions    struct {
		Reset struct {
			Target     string   `json:"target"`
			ActionInfo string   `json:"@Redfish.ActionInfo"`
			Allowed    []string `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#ComputerSystem.Reset"`
	}
}

// Values of PowerState: Redfish schema Resource, PowerState.
const (
	stateOn          = "On"
	stateOff         = "Off"
	statePoweringOn  = "PoweringOn"
	statePoweringOff = "PoweringOff"
	statePaused      = "Paused"
)

// chassisPower is the power of a chassis by its PowerState. What is on its way
// in either direction is on: it draws power, and a command that turned it on
// was not lost. Only Off is off.
func chassisPower(state string) (pool.Power, error) {
	switch state {
	case stateOn, statePoweringOn, statePoweringOff, statePaused:
		return pool.PowerOn, nil
	case stateOff:
		return pool.PowerOff, nil
	case "":
		return pool.PowerUnknown, fmt.Errorf("%w: it does not report a PowerState", power.ErrUnreachable)
	}
	return pool.PowerUnknown, fmt.Errorf("%w: it reports the PowerState %.40q, which is none of Redfish", power.ErrUnreachable, state)
}

// change is a thing to do to the power.
type change int

const (
	turnOn change = iota
	softOff
	hardOff
)

func (c change) String() string { return [...]string{"power on", "soft off", "hard off"}[c] }

// resets are the values of ResetType that do what is wanted, the best one
// first. PushPowerButton is none of them, because it toggles; neither are the
// restarts and cycles; and nothing hard stands in for a soft one.
var resets = map[change][]string{
	turnOn:  {"On", "ForceOn"},
	softOff: {"GracefulShutdown"},
	hardOff: {"ForceOff"},
}

// needed says whether a change is left to be made to a chassis in a state.
func (c change) needed(state string) (bool, error) {
	if _, err := chassisPower(state); err != nil {
		return false, err
	}
	switch c {
	case turnOn:
		if state == statePoweringOff {
			return false, fmt.Errorf("%w: it is powering off; it can be powered on when that is over", power.ErrRefused)
		}
		return state == stateOff, nil
	case softOff:
		return state != stateOff && state != statePoweringOff, nil
	}
	return state != stateOff, nil // a shutdown that hangs is what hard-off is for
}

// choose picks the ResetType for a change of those that a system offers. A
// system that does not say what it offers is asked for the best one.
func (c change) choose(offered []string) (string, error) {
	if len(offered) == 0 {
		return resets[c][0], nil
	}
	for _, reset := range resets[c] {
		if slices.Contains(offered, reset) {
			return reset, nil
		}
	}
	return "", fmt.Errorf("%w: it offers the resets %.200s, and none that is a %s", power.ErrUnsupported, strings.Join(offered, ", "), c)
}

// boards are what the Ids of such systems begin with as are no hosts, but parts
// of one that has an Id of its own: "HGX_Baseboard_0" beside "System_0" on
// NVIDIA's HGX and GB trays (libredfish#89).
var boards = []string{"HGX_"}

// pick finds the host among the members of /redfish/v1/Systems, by its Id if
// one is given.
func pick(members []string, id string) (uri string, err error) {
	var hosts, ids []string
	for _, uri := range members {
		name := systemID(uri)
		switch {
		case name == "":
			continue
		case id != "" && name == id:
			return uri, nil
		case id == "" && slices.ContainsFunc(boards, func(b string) bool { return strings.HasPrefix(name, b) }):
		default:
			hosts = append(hosts, uri)
		}
		ids = append(ids, name)
	}
	switch {
	case id != "":
		return "", fmt.Errorf("%w: it has no system %s; set system to one of: %.300s", power.ErrRefused, id, strings.Join(ids, ", "))
	case len(hosts) == 1:
		return hosts[0], nil
	case len(ids) == 0:
		return "", fmt.Errorf("%w: it has no systems; it may be starting, or its account may not see them", power.ErrUnreachable)
	}
	return "", fmt.Errorf("%w: it has several systems; set system to one of: %.300s", power.ErrRefused, strings.Join(ids, ", "))
}

// systemID is the last element of a system's path.
func systemID(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Path == "" || u.Path == "/" {
		return ""
	}
	return path.Base(u.Path)
}

// local is the path of a link that the service gave, which must lead to itself.
func (d *Driver) local(link string) (string, error) {
	u, err := url.Parse(link)
	if err == nil && u.Host != "" {
		if !sameHost(u, d.config.address) {
			return "", fmt.Errorf("%w: %w", power.ErrRefused, errElsewhere)
		}
		return u.RequestURI(), nil
	}
	if err != nil || !strings.HasPrefix(link, "/") {
		return "", fmt.Errorf("%w: it gave %.100q for a path", power.ErrRefused, link)
	}
	return link, nil
}

// find reads the host's system. Where it lies is looked up once.
func (d *Driver) find(c *gofish.APIClient) (*system, error) {
	if d.path == "" {
		systems, err := schemas.GetCollection(c, schemas.DefaultServiceRoot+"Systems")
		if err != nil {
			return nil, d.failure(err, false)
		}
		uri, err := pick(systems.ItemLinks, d.config.system)
		if err != nil {
			return nil, err
		}
		if d.path, err = d.local(uri); err != nil {
			return nil, err
		}
	}
	s, err := schemas.GetObject[system](c, d.path)
	if err != nil {
		d.path = "" // it may have moved with a new firmware
		return nil, d.failure(err, false)
	}
	return s, nil
}

// offered are the values of ResetType that a system says it takes, nil if it
// does not say.
func (d *Driver) offered(c *gofish.APIClient, s *system) ([]string, error) {
	reset := s.Actions.Reset
	if len(reset.Allowed) > 0 || reset.ActionInfo == "" {
		return reset.Allowed, nil
	}
	link, err := d.local(reset.ActionInfo)
	if err != nil {
		return nil, err
	}
	info, err := schemas.GetObject[schemas.ActionInfo](c, link)
	if err != nil {
		return nil, d.failure(err, false)
	}
	offered, _ := info.GetParamValues("ResetType", schemas.StringParameterTypes) // its error is that there are none
	return offered, nil
}

// reset makes a change unless nothing is left to change, once.
func (d *Driver) reset(ctx context.Context, c *gofish.APIClient, s *system, what change) error {
	needed, err := what.needed(s.PowerState)
	if err != nil || !needed {
		return err
	}
	offered, err := d.offered(c, s)
	if err != nil {
		return err
	}
	kind, err := what.choose(offered)
	if err != nil {
		return err
	}
	if s.Actions.Reset.Target == "" {
		return fmt.Errorf("%w: its system has no reset action", power.ErrUnsupported)
	}
	target, err := d.local(s.Actions.Reset.Target)
	if err != nil {
		return err
	}
	// Not gofish's Reset, which sends the command again after a 412.
	d.guard.forget()
	resp, err := c.Post(target, map[string]string{"ResetType": kind}) //nolint:bodyclose // closed below, by gofish
	if err != nil {
		return d.failure(err, true)
	}
	defer schemas.DeferredCleanupHTTPResponse(resp)
	if resp.StatusCode != http.StatusAccepted {
		return nil
	}
	return d.follow(ctx, c, schemas.ParseTaskMonitorInfo(c, resp))
}

const (
	// taskWatch is how long an accepted change is watched for failing at once.
	// A task may take minutes; what became of it then shows in the power.
	taskWatch = 2 * time.Second
	taskPause = 250 * time.Millisecond
)

// follow watches the task that a change has become. It fails only if the
// service says that the task did: a task that goes on, or cannot be read, is
// an accepted change.
func (d *Driver) follow(ctx context.Context, c *gofish.APIClient, info *schemas.TaskMonitorInfo) error {
	ctx, cancel := context.WithTimeout(ctx, taskWatch)
	defer cancel()
	c = c.WithContext(ctx)
	if info.Task != nil {
		if over, err := ended(string(info.Task.TaskState), d.texts(info.Task.Messages)); over {
			return err
		}
	}
	monitor, err := d.local(info.TaskMonitor)
	if err != nil {
		return nil //nolint:nilerr // no way to follow it
	}
	for wait := time.Until(info.RetryAfter); pause(ctx, max(wait, taskPause)); wait = 0 {
		resp, err := c.Get(monitor) //nolint:bodyclose // closed below, by gofish
		if err != nil {
			return d.taskFailure(err)
		}
		var task struct {
			TaskState string
			Messages  []schemas.Message
		}
		err = json.NewDecoder(resp.Body).Decode(&task)
		schemas.DeferredCleanupHTTPResponse(resp)
		if err != nil {
			return nil //nolint:nilerr // the answer to the change itself, which has no body
		}
		if over, err := ended(task.TaskState, d.texts(task.Messages)); over {
			return err
		}
	}
	return nil
}

// taskFailure is what a monitor's error says of the change: its own answer, or
// nothing if the monitor could not be read.
func (d *Driver) taskFailure(err error) error {
	switch _, status, _ := d.guard.seen(); status {
	case 0, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone,
		http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return nil
	}
	return d.failure(err, true)
}

// ended says whether a task is over, and how: Redfish schema Task, TaskState.
func ended(state, said string) (bool, error) {
	switch state {
	case "", "New", "Starting", "Running", "Pending", "Suspended", "Interrupted", "Service":
		return false, nil
	case "Exception", "Killed", "Cancelled", "Cancelling", "Stopping":
		return true, fmt.Errorf("%w: it accepted the command as a task, which ended as %s: %s", power.ErrRefused, state, said)
	}
	return true, nil // Completed, or a state that is none of Redfish
}

func (d *Driver) texts(messages []schemas.Message) string {
	var texts []string
	for _, m := range messages {
		texts = append(texts, m.Message)
	}
	return d.config.brief(strings.Join(texts, " "))
}

// pause waits, and says whether the context is still alive.
func pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// errNoToken is a login that succeeded and gave nothing to be logged in with.
var errNoToken = errors.New("it opened a session without a token (X-Auth-Token)")
