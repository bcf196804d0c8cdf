// Package register keeps the agent's entry in Consul: one service per host,
// with a check that lives as long as the agent says so.
//
// The check says whether the agent's word is good, not how each GPU is; that
// is in its snapshot. It is
//
//   - passing while the agent samples at least one usable GPU, or knows that
//     nothing can run on the host's GPUs, as without a driver;
//   - warning while the agent runs, but the GPUs or their driver tell it nothing;
//   - critical when no heart-beat came for the TTL: the agent is dead.
//
// Only changes of the status reach Consul's servers. A heart-beat with the
// status that is there already stays with the local Consul agent, and so does
// the text, of which there are a few only.
package register

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/gpupool/gpupool/internal/fleet"
)

// Config is what a [Registration] needs.
type Config struct {
	Consul  *api.Client
	Node    string // name of the Nomad node
	Version string // of the agent
	// Address and Port are where readers reach the agent. An empty Address
	// is that of the Consul agent.
	Address string
	Port    int
	// TTL is how long Consul believes the agent without a heart-beat. Beats
	// come at a third of it.
	TTL time.Duration
	// Verdict is what to say now. It must not block.
	Verdict func() Verdict
	Log     *slog.Logger
}

// Verdict is what a heart-beat says.
type Verdict struct {
	Status string // api.HealthPassing or api.HealthWarning; empty if not known yet
	Text   string // one of a few, without numbers that change
}

// Judge says what a snapshot is worth to Consul. The verdict is empty while
// the first samples are on their way.
func Judge(s fleet.Snapshot) Verdict {
	unknown := 0
	for _, g := range s.GPUs {
		if g.State == fleet.StateUnknown {
			unknown++
		}
	}
	switch {
	case s.Usable() > 0:
		return Verdict{api.HealthPassing, "sampling GPUs"}
	case s.Driver.State == fleet.DriverStarting, s.Driver.State == fleet.DriverOK && unknown > 0:
		return Verdict{}
	case s.Outside.Known:
		return Verdict{api.HealthPassing, "no usable GPU, and nothing that runs on one"}
	}
	return Verdict{api.HealthWarning, "the GPUs or their driver do not answer; see the agent's snapshot"}
}

// Times that do not depend on the TTL.
const (
	callTimeout = 2 * time.Second
	look        = time.Second // between looks at the verdict
	// patience is how long the first verdict may be unknown. After it the
	// agent registers with a warning, so that a driver that hangs from the
	// start is seen.
	patience        = 10 * time.Second
	deregisterAfter = 30 * time.Minute // of critical, when Consul forgets the agent
)

// Registration is the agent's entry in Consul.
type Registration struct {
	cfg     Config
	adopted bool // the entry in Consul is known to be ours and as we want it

	mu         sync.Mutex
	registered bool
	failures   uint64
}

// New makes a registration, which does nothing until Run.
func New(cfg Config) *Registration { return &Registration{cfg: cfg} }

// ServiceID is the ID of a node's agent in Consul.
func ServiceID(node string) string { return fleet.Service + "-" + node }

// CheckID is the ID of the check of a node's agent in Consul.
func CheckID(node string) string { return "service:" + ServiceID(node) }

// State is whether the last call reached Consul, and how many did not.
func (r *Registration) State() (registered bool, failures uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.registered, r.failures
}

// Run registers the agent and beats until ctx ends, and then takes the entry
// out. It goes on without Consul and comes back when Consul does.
func (r *Registration) Run(ctx context.Context) {
	began := time.Now()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	var said Verdict
	var next time.Time // beat
	retry := time.Second
	for {
		verdict := r.cfg.Verdict()
		now := time.Now()
		switch {
		case verdict.Status != "":
		case said.Status != "":
			verdict = said
		case now.Sub(began) >= patience:
			verdict = Verdict{api.HealthWarning, "the GPU driver does not answer"}
		}
		due := !now.Before(next)
		if verdict.Status != "" && (due || said.Status != "" && verdict != said && r.wasHeard()) {
			if err := r.beat(ctx, verdict); err != nil {
				r.failed(ctx, err)
				next = now.Add(retry)
				retry = min(2*retry, r.cfg.TTL/3)
			} else {
				r.succeeded(verdict)
				next = now.Add(interval(r.cfg.TTL))
				retry = time.Second
			}
			said = verdict
		}
		select {
		case <-ctx.Done():
			r.leave()
			return
		case <-ticker.C:
		}
	}
}

// interval is a third of the TTL, give or take a tenth so that the agents of
// a fleet that was powered on at once do not beat at once.
func interval(ttl time.Duration) time.Duration {
	return time.Duration(float64(ttl) / 3 * (0.9 + 0.2*rand.Float64()))
}

func (r *Registration) wasHeard() bool {
	heard, _ := r.State()
	return heard
}

// failed counts a failure, and logs it if it is news.
func (r *Registration) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures++
	if r.registered || r.failures == 1 {
		r.cfg.Log.Warn("Consul does not know of this agent, will try again", "error", err)
	}
	r.registered = false
}

func (r *Registration) succeeded(v Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.registered {
		r.cfg.Log.Info("registered in Consul", "service", ServiceID(r.cfg.Node), "status", v.Status)
	}
	r.registered = true
}

// beat tells Consul the verdict, and registers the agent first where Consul
// does not know it.
func (r *Registration) beat(ctx context.Context, v Verdict) error {
	if !r.adopted {
		if err := r.adopt(ctx, v); err != nil {
			return err
		}
	}
	if err := r.update(ctx, v); err != nil {
		r.adopted = false // somebody took it out, or Consul lost it: look again
		return err
	}
	return nil
}

// adopt takes over the entry that an earlier run of this agent left, if it is
// as it should be. Registering anew would make its check critical for a
// moment.
func (r *Registration) adopt(ctx context.Context, v Verdict) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	there, _, err := r.cfg.Consul.Agent().Service(ServiceID(r.cfg.Node), (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case status(err) == http.StatusNotFound:
		return r.put(ctx, v)
	case err != nil:
		return explain("read the agent's service", err)
	}
	want := r.service(v)
	if there.Service != want.Name || there.Address != want.Address || there.Port != want.Port || !maps.Equal(there.Meta, want.Meta) {
		return r.put(ctx, v)
	}
	r.adopted = true
	return nil
}

// service is the entry as it should be.
func (r *Registration) service(v Verdict) *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		ID:      ServiceID(r.cfg.Node),
		Name:    fleet.Service,
		Address: r.cfg.Address,
		Port:    r.cfg.Port,
		Meta: map[string]string{
			"node":    r.cfg.Node,
			"version": r.cfg.Version,
			"schema":  strconv.Itoa(fleet.Schema),
			"ttl":     r.cfg.TTL.String(),
		},
		Check: &api.AgentServiceCheck{
			CheckID:                        CheckID(r.cfg.Node),
			Name:                           "gpupool agent",
			TTL:                            r.cfg.TTL.String(),
			Status:                         v.Status,
			DeregisterCriticalServiceAfter: deregisterAfter.String(),
		},
	}
}

// put registers the agent. It is not broken off when the agent ends, because
// what was sent could then take effect after leave.
func (r *Registration) put(ctx context.Context, v Verdict) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err := r.cfg.Consul.Agent().ServiceRegisterOpts(r.service(v), api.ServiceRegisterOpts{}.WithContext(ctx))
	if err != nil {
		return explain("register the agent's service", err)
	}
	r.adopted = true
	return nil
}

// update is one heart-beat.
func (r *Registration) update(ctx context.Context, v Verdict) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := r.cfg.Consul.Agent().UpdateTTLOpts(CheckID(r.cfg.Node), v.Text, v.Status, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return explain("heart-beat", err)
	}
	return nil
}

// leave takes the entry out, within a second: the agent is about to end.
func (r *Registration) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := r.cfg.Consul.Agent().ServiceDeregisterOpts(ServiceID(r.cfg.Node), (&api.QueryOptions{}).WithContext(ctx))
	if err != nil && status(err) != http.StatusNotFound {
		r.cfg.Log.Warn("still registered in Consul, which will notice within the TTL",
			"ttl", r.cfg.TTL, "error", explain("deregister the agent's service", err))
	}
}

// status is the HTTP status in an error of Consul's client, or 0.
func status(err error) int {
	var s api.StatusError
	if errors.As(err, &s) {
		return s.Code
	}
	return 0
}

// explain names what failed, and the mend where it is known.
func explain(what string, err error) error {
	if status(err) == http.StatusForbidden {
		return fmt.Errorf("%s: %w (the Consul token needs service_prefix %q { policy = \"write\" }; set CONSUL_HTTP_TOKEN)",
			what, err, fleet.Service)
	}
	return fmt.Errorf("%s: %w", what, err)
}
