package register

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/fleet"
)

// InstancePrefix begins the ID of every service that is a model server.
const InstancePrefix = "gpupool-instance-"

// maintenancePrefix begins the reason of every maintenance that the agent sets.
// One with another reason is an operator's, and is left alone.
const maintenancePrefix = "gpupool: "

// Entry is one model server as Consul is to know it.
type Entry struct {
	ID      string // begins with InstancePrefix
	Name    string // of the service
	Tags    []string
	Meta    map[string]string // "node" is added
	Address string
	Port    int
	// Status is api.HealthPassing for one that gets requests, else
	// api.HealthCritical, and Text why: one of a few, without numbers that
	// change.
	Status, Text string
	// Maintenance is why it gets no requests for now though it could answer;
	// empty if it does. Nothing but the agent's word ends it.
	Maintenance string
}

// InstancesConfig is what an [Instances] needs.
type InstancesConfig struct {
	Consul *api.Client
	Node   string        // name of the Nomad node; entries of other nodes are left alone
	TTL    time.Duration // how long Consul believes an entry without a heart-beat
	// Entries are what Consul is to know, and whether that is all: while it is
	// not, no entry is taken out. It must not block.
	Entries func() (list []Entry, all bool)
	// Changed has a value when Entries changed. Without one, changes are seen
	// within a second.
	Changed <-chan struct{}
	Log     *slog.Logger
}

// Instances keeps the model servers of a host in Consul: a service for each,
// with a TTL check, found by ?passing only while the agent says so. What is not
// said again within the TTL is critical, so nobody is sent to an instance of
// which nobody knows. Heart-beats stay with the local Consul agent; only changes
// are writes.
//
// The entries stay when the agent ends: a restart within the TTL is not seen by
// anybody.
type Instances struct {
	cfg   InstancesConfig
	known map[string]*entered // nil until it was read what Consul has

	mu       sync.Mutex
	failures uint64
	writes   uint64
	failing  bool
}

// entered is an entry as Consul has it.
type entered struct {
	Entry
	next time.Time // heart-beat
}

// NewInstances makes what keeps the entries, which does nothing until Run.
func NewInstances(cfg InstancesConfig) *Instances { return &Instances{cfg: cfg} }

// State is whether the last round reached Consul, how many calls failed, and
// how many changes were written.
func (r *Instances) State() (registered bool, failures, writes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.failing, r.failures, r.writes
}

// Left are the entries that Consul has of this node, by ID: before Run, those
// that an earlier run of the agent left.
func (r *Instances) Left(ctx context.Context) (map[string]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := (&api.QueryOptions{}).WithContext(ctx)
	services, err := r.cfg.Consul.Agent().ServicesWithFilterOpts(fmt.Sprintf("ID matches %q", "^"+InstancePrefix), q)
	if err != nil {
		return nil, explain("read the instances' services", err)
	}
	checks, err := r.cfg.Consul.Agent().ChecksWithFilterOpts(fmt.Sprintf("ServiceID matches %q", "^"+InstancePrefix), q)
	if err != nil {
		return nil, explain("read the instances' checks", err)
	}
	left := map[string]Entry{}
	for id, s := range services {
		if s.Meta["node"] != r.cfg.Node {
			continue // of another node that shares this Consul agent
		}
		e := Entry{ID: id, Name: s.Service, Tags: s.Tags, Meta: s.Meta, Address: s.Address, Port: s.Port}
		if c := checks[instanceCheck(id)]; c != nil {
			e.Status, e.Text = c.Status, c.Output
		}
		if c := checks["_service_maintenance:"+id]; c != nil {
			e.Maintenance, _ = strings.CutPrefix(c.Notes, maintenancePrefix)
			if e.Maintenance == c.Notes {
				e.Maintenance = "" // an operator's
			}
		}
		left[id] = e
	}
	return left, nil
}

// instanceCheck is the ID of an instance's check.
func instanceCheck(id string) string { return "service:" + id }

// Run keeps the entries until ctx ends.
func (r *Instances) Run(ctx context.Context) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	retry, again := time.Second, time.Time{}
	for {
		if now := time.Now(); !now.Before(again) {
			err := r.round(ctx, now, false)
			if r.told(ctx, err) {
				retry = time.Second
			} else {
				again, retry = now.Add(retry), min(2*retry, r.cfg.TTL/3)
			}
		}
		select {
		case <-ctx.Done():
			// A last heart-beat gives the next agent the whole TTL.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = r.round(last, time.Now(), true) // it says that itself by the TTL
			return
		case <-r.cfg.Changed:
			again = time.Time{} // news does not wait for what failed before
		case <-ticker.C:
		}
	}
}

// told counts a round, and logs what is news.
func (r *Instances) told(ctx context.Context, err error) (ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil && r.failing:
		r.cfg.Log.Info("Consul knows of the instances again")
	case err != nil && !r.failing && ctx.Err() == nil:
		r.cfg.Log.Warn("Consul does not know how the instances are, will try again", "error", err)
	}
	r.failing = err != nil
	return err == nil
}

// round makes Consul know what it is to know. One entry that fails does not keep
// the others.
func (r *Instances) round(ctx context.Context, now time.Time, beatAll bool) error {
	if r.known == nil {
		left, err := r.Left(ctx)
		if err != nil {
			r.failed()
			return err
		}
		r.known = map[string]*entered{}
		for id, e := range left {
			r.known[id] = &entered{Entry: e}
		}
	}
	var errs []error
	fail := func(err error) {
		if err != nil {
			r.failed()
			errs = append(errs, err)
		}
	}
	wanted := map[string]bool{}
	// Those that are to get no requests come first: there is a request for each
	// entry that is told before.
	entries, all := r.cfg.Entries()
	slices.SortStableFunc(entries, func(a, b Entry) int { return urgency(a) - urgency(b) })
	for _, e := range entries {
		wanted[e.ID] = true
		fail(r.tell(ctx, e, now, beatAll))
	}
	for _, id := range slices.Sorted(maps.Keys(r.known)) {
		if all && !wanted[id] {
			fail(r.remove(ctx, id))
		}
	}
	if len(errs) > 0 && r.known != nil && ctx.Err() == nil {
		r.known = nil // whatever was understood: look again before the next word
	}
	return errors.Join(errs...)
}

func urgency(e Entry) int {
	if e.Status == api.HealthPassing && e.Maintenance == "" {
		return 1
	}
	return 0
}

func (r *Instances) failed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures++
}

func (r *Instances) wrote() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
}

// tell makes Consul know one entry, in as few calls as will do: none for one
// that is as it was and needs no heart-beat yet.
func (r *Instances) tell(ctx context.Context, e Entry, now time.Time, beat bool) error {
	e.Meta = maps.Clone(e.Meta)
	if e.Meta == nil {
		e.Meta = map[string]string{}
	}
	e.Meta["node"] = r.cfg.Node
	was := r.known[e.ID]
	if was == nil || !same(was.Entry, e) {
		if err := r.enter(ctx, e); err != nil {
			return err
		}
		now := entered{Entry: e}
		if was != nil {
			now.Maintenance = was.Maintenance
		} else {
			now.Maintenance = ""
		}
		was = &now
		r.known[e.ID] = was
	}
	if was.Maintenance != e.Maintenance {
		if err := r.maintain(ctx, e); err != nil {
			return err
		}
		was.Maintenance = e.Maintenance
	}
	if beat || was.Status != e.Status || was.Text != e.Text || !now.Before(was.next) {
		if err := r.beat(ctx, e); err != nil {
			return err
		}
		if was.Status != e.Status {
			r.wrote()
		}
		was.Status, was.Text, was.next = e.Status, e.Text, now.Add(interval(r.cfg.TTL))
	}
	return nil
}

// same says whether the service of an entry is there as it should be.
func same(a, b Entry) bool {
	return a.Name == b.Name && a.Address == b.Address && a.Port == b.Port && slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Meta, b.Meta)
}

// enter registers an entry with its status. It is not broken off when the agent
// ends, because what was sent could then take effect later.
func (r *Instances) enter(ctx context.Context, e Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err := r.cfg.Consul.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: e.ID, Name: e.Name, Tags: e.Tags, Meta: e.Meta, Address: e.Address, Port: e.Port,
		Check: &api.AgentServiceCheck{
			CheckID:                        instanceCheck(e.ID),
			Name:                           "gpupool instance",
			TTL:                            r.cfg.TTL.String(),
			Status:                         e.Status,
			DeregisterCriticalServiceAfter: deregisterAfter.String(),
		},
	}, api.ServiceRegisterOpts{}.WithContext(ctx))
	if err != nil {
		return explainFor(e.Name, "register instance "+e.ID, err)
	}
	r.wrote()
	return nil
}

// maintain sets or ends the maintenance of an entry.
func (r *Instances) maintain(ctx context.Context, e Entry) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	q := (&api.QueryOptions{}).WithContext(ctx)
	var err error
	if e.Maintenance != "" {
		err = r.cfg.Consul.Agent().EnableServiceMaintenanceOpts(e.ID, maintenancePrefix+e.Maintenance, q)
	} else {
		err = r.cfg.Consul.Agent().DisableServiceMaintenanceOpts(e.ID, q)
	}
	if err != nil {
		return explainFor(e.Name, "maintenance of instance "+e.ID, err)
	}
	r.wrote()
	return nil
}

func (r *Instances) beat(ctx context.Context, e Entry) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := r.cfg.Consul.Agent().UpdateTTLOpts(instanceCheck(e.ID), e.Text, e.Status, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return explainFor(e.Name, "heart-beat of instance "+e.ID, err)
	}
	return nil
}

// remove takes out the entry of an instance that is gone.
func (r *Instances) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := r.cfg.Consul.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil && status(err) != http.StatusNotFound {
		return explainFor(r.known[id].Name, "take out instance "+id, err)
	}
	delete(r.known, id)
	r.wrote()
	return nil
}

// explainFor is explain for the service of an instance.
func explainFor(service, what string, err error) error {
	if status(err) == http.StatusForbidden {
		return fmt.Errorf("%s: %w (the Consul token needs service %q { policy = \"write\" }, or a service_prefix; set CONSUL_HTTP_TOKEN)", what, err, service)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Text is what the check of an instance says: one of a few, because Consul's
// servers are told of a change of the text only now and then.
func Text(s fleet.InstanceState) string {
	switch s {
	case fleet.Warm, fleet.Serving, fleet.Saturated:
		return "ready for requests"
	case fleet.Asleep:
		return "asleep"
	case fleet.Draining:
		return "finishes its requests and gets no new ones"
	case fleet.Unhealthy:
		return "unhealthy; see the agent's snapshot"
	}
	return "not ready yet"
}
