package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/agent/instance"
	"github.com/gpupool/gpupool/agent/register"
	"github.com/gpupool/gpupool/agent/serve"
	"github.com/gpupool/gpupool/internal/engine"
	"github.com/gpupool/gpupool/internal/fleet"
	"github.com/gpupool/gpupool/internal/secret"
)

// instancesConfig is how the agent looks for model servers.
type instancesConfig struct {
	Nomad   string // address of the Nomad agent; off for none
	Token   string // reference to the Nomad token
	Service string // pattern of the Consul services' names
	Admin   bool   // whether requests may change what an instance does
}

// offWord turns off what a flag is about.
const offWord = "off"

func (c *instancesConfig) flags(f *flag.FlagSet) {
	f.StringVar(&c.Nomad, "nomad", "", "`address` of the Nomad agent on this host, or off; the default is NOMAD_ADDR, or NOMAD_UNIX_ADDR, and off without them")
	f.StringVar(&c.Token, "nomad-token", "", "`reference` to the Nomad token, env:NAME or file:PATH, read anew each time; the default is NOMAD_TOKEN")
	f.StringVar(&c.Service, "instance-service", "{job}-warm", "`name` of the Consul service of a job's model servers")
	f.BoolVar(&c.Admin, "admin", false, "let requests with the bearer token, or a client certificate, drain instances and put them to sleep")
}

// environment fills in where Nomad is from the variables that Nomad's own tools
// read, and that Nomad sets for a task with an identity.
func (c *instancesConfig) environment(env func(string) string) {
	for _, name := range []string{"NOMAD_ADDR", "NOMAD_UNIX_ADDR"} {
		if c.Nomad == "" {
			c.Nomad = env(name)
		}
	}
	if c.Nomad == "" {
		c.Nomad = offWord
	}
	if c.Token == "" && env("NOMAD_TOKEN") != "" {
		c.Token = "env:NOMAD_TOKEN"
	}
}

func (c *instancesConfig) validate(authorized bool) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Token != "" {
		ref, err := secret.Parse(c.Token)
		if err == nil {
			_, err = ref.Resolve()
		}
		if err != nil {
			bad("-nomad-token: %w", err)
		}
	}
	if err := instance.CheckPattern(c.Service); err != nil {
		bad("-instance-service %.60q: %w", c.Service, err)
	}
	if c.Admin && !authorized {
		bad("-admin without a bearer token or -tls-client-ca: anybody could drain an instance; give one of them")
	}
	if c.Admin && c.Nomad == offWord {
		bad("-admin without -nomad: there are no instances to act on")
	}
	return errors.Join(errs...)
}

// instances is what knows the model servers of this host. Nil is a host where
// nobody looks for them.
type instances struct {
	watcher *instance.Watcher
	entries *register.Instances // nil if they are not kept in Consul
	grants  grants
	admin   bool
	log     *slog.Logger
}

// watchInstances makes what looks for the model servers, or nil.
func watchInstances(cfg config, snapshot func() fleet.Snapshot, log *slog.Logger) (*instances, error) {
	if cfg.instances.Nomad == offWord {
		return nil, nil
	}
	source, err := newAllocations(cfg)
	if err != nil {
		return nil, err
	}
	all := &instances{admin: cfg.instances.Admin, log: log}
	all.watcher = instance.New(instance.Config{
		Allocs:  all.grants.follow(source.read),
		Servers: engine.NewClient(engine.ClientConfig{}),
		GPUs:    func() []fleet.GPU { return snapshot().GPUs },
		Pattern: cfg.instances.Service,
		Period:  cfg.Period,
		Rules:   instance.DefaultRules(),
		Log:     log,
	})
	client, err := consulClient(cfg)
	if err != nil {
		return nil, err
	}
	if client != nil {
		all.entries = register.NewInstances(register.InstancesConfig{
			Consul: client, Node: cfg.Node, TTL: cfg.TTL,
			Entries: all.watcher.Entries, Changed: all.watcher.Changed(), Log: log,
		})
	}
	return all, nil
}

// adoptPatience is how long the agent waits to learn what it told Consul
// before it was started. After that the instances are looked at as new ones,
// and are out of Consul's answers until they are seen to be ready.
const adoptPatience = 5 * time.Second

// run watches until ctx ends.
func (i *instances) run(ctx context.Context) {
	if i == nil {
		return
	}
	if i.entries == nil {
		i.watcher.Run(ctx)
		return
	}
	for deadline := time.Now().Add(adoptPatience); ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		left, err := i.entries.Left(ctx)
		if err == nil {
			i.watcher.Adopt(left, time.Now())
			break
		}
		if time.Now().After(deadline) {
			i.log.Warn("cannot read what Consul knows of this host's instances, each is looked at before it is passing", "error", err)
			break
		}
	}
	told := background(func() { i.entries.Run(ctx) })
	i.watcher.Run(ctx)
	<-told
}

// describe adds the instances to what is seen.
func (i *instances) describe(snapshot func() fleet.Snapshot) func() fleet.Snapshot {
	if i == nil {
		return snapshot
	}
	return func() fleet.Snapshot {
		s := i.grants.describe(snapshot())
		s.Instances = i.watcher.Instances(time.Now())
		return s
	}
}

// answer adds the instances to what is served.
func (i *instances) answer(cfg *serve.Config) {
	if i == nil {
		return
	}
	cfg.Instances.Flaws = i.watcher.Flaws
	if i.entries != nil {
		cfg.Instances.Consul = i.entries.State
	}
	if i.admin {
		cfg.Instances.Admin = i.watcher.Admin()
	}
}

// allocations reads the allocations of this host from Nomad.
type allocations struct {
	nomad tokened
	node  string
	id    string // of the node, once it is known
}

// blockFor is how long one request to Nomad waits for a change.
const blockFor = time.Minute

func newAllocations(cfg config) (*allocations, error) {
	client, err := askNomad(cfg)
	if err != nil {
		return nil, err
	}
	return &allocations{nomad: client, node: cfg.Node}, nil
}

func (a *allocations) read(ctx context.Context, index uint64) ([]*nomadapi.Allocation, uint64, error) {
	client, err := a.nomad.fresh()
	if err != nil {
		return nil, 0, err
	}
	if index == 0 {
		a.id = "" // the node may have been installed anew
	}
	if a.id == "" {
		if a.id, err = client.NodeID(ctx, a.node); err != nil {
			return nil, 0, err
		}
	}
	return client.HostAllocs(ctx, a.id, index, blockFor)
}
