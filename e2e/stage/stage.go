// Package stage puts gpupool on a lab: the plugins and the agent built from
// this tree, run by Nomad from the job files in jobs/, on hosts that are off.
// The demo and the end-to-end tests play on it.
package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/e2e/lab"
	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/nomad"
)

// PoolName is the pool of the stage, as in jobs/pools.hcl and in the policy.
const PoolName = "h100"

// Config says what to put up.
type Config struct {
	Dir      string        // existing folder for everything that is written
	Hosts    int           // GPU hosts with two GPUs each; 0 means 3
	Boot     time.Duration // from power-on to the start of the operating system
	Progress func(string)

	BootTimeout        time.Duration // of the pool; 0 means 2 min
	EvaluationInterval time.Duration // of the autoscaler; 0 means 2 s
	ScaleInAfter       time.Duration // surplus before it goes; 0 means 10 s

	Queues string // content of queues.hcl; none if empty
}

// Stage is gpupool on a lab.
type Stage struct {
	*lab.Lab
	dir    string
	root   string
	config Config
	pool   *consul.Pool
	demand *nomad.Client
}

// Up builds and starts everything, and returns when the target plugin has seen
// all hosts off. Call Close in any case where it returned a stage.
func Up(ctx context.Context, cfg Config) (*Stage, error) {
	if cfg.Hosts == 0 {
		cfg.Hosts = 3
	}
	if cfg.BootTimeout == 0 {
		cfg.BootTimeout = 2 * time.Minute
	}
	if cfg.EvaluationInterval == 0 {
		cfg.EvaluationInterval = 2 * time.Second
	}
	if cfg.ScaleInAfter == 0 {
		cfg.ScaleInAfter = 10 * time.Second
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	root, err := lab.Repository()
	if err != nil {
		return nil, err
	}
	l, err := lab.Start(ctx, lab.Config{Dir: cfg.Dir, Hosts: cfg.Hosts, BootDelay: cfg.Boot, Progress: cfg.Progress})
	if err != nil {
		return nil, err
	}
	s := &Stage{Lab: l, dir: cfg.Dir, root: root, config: cfg}
	if err := s.up(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stage) up(ctx context.Context) error {
	cc, err := consul.New(consul.Config{Address: s.ConsulAddr()})
	if err != nil {
		return err
	}
	s.pool = cc.Pool(PoolName)
	if s.demand, err = nomad.New(nomad.Config{API: &nomadapi.Config{Address: s.NomadAddr()}}); err != nil {
		return err
	}
	s.config.Progress("building the plugins and the agent")
	if err := s.build(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "pools.hcl"), []byte(s.inventory()), 0o600); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	s.config.Progress("submitting the agent and the autoscaler to Nomad")
	if err := s.Agent(ctx); err != nil {
		return err
	}
	if err := s.Autoscaler(ctx); err != nil {
		return err
	}
	return s.UntilBoard(ctx, "the target has seen all hosts off", func(p board.Pool) bool {
		return p.Status != nil && Count(p, "off") == s.config.Hosts
	})
}

// build compiles what the job files run into bin.
func (s *Stage) build(ctx context.Context) error {
	bin := filepath.Join(s.dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", bin+"/", "./plugins/...", "./agent")
	cmd.Dir = s.root
	cmd.Env = append(os.Environ(), "CGO_CFLAGS=-O2 -g -Wno-deprecated-declarations")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("stage: go build: %w: %s", err, out)
	}
	return os.Symlink(s.Tools().Autoscaler, filepath.Join(bin, "nomad-autoscaler"))
}

// ByRedfish is the number of the host that is powered through Redfish; the
// others are through IPMI.
const ByRedfish = 2

// inventory is jobs/pools.hcl for the lab's hosts: other addresses, the cipher
// suite that ipmi_sim has, one host that is powered in another way, and a pace
// that suits spectators.
func (s *Stage) inventory() string {
	var b strings.Builder
	fmt.Fprintf(&b, `pool %q {
  node_pool        = "gpu"
  device           = "nvidia/gpu"
  gpus_per_host    = 2
  max_booting      = 3
  max_draining     = 3
  boot_timeout     = "%s"
  soft_off_timeout = "30s"
  power_confirm    = "15s"
  poll             = "1s"
  stale_after      = "15s"
  fence            = "5s"

  power "ipmi" {
    username     = %q
    password     = "env:BMC_PASSWORD"
    cipher_suite = 3
    min_interval = "0s"
  }
`, PoolName, s.config.BootTimeout, s.Hosts()[0].User)
	for i, h := range s.Hosts() {
		if i+1 == ByRedfish {
			fmt.Fprintf(&b, `
  host %q {
    power "redfish" {
      address      = %q
      fingerprint  = %q
      username     = %q
      password     = "env:BMC_PASSWORD"
      min_interval = "0s"
    }
  }
`, h.Name, h.Redfish.Address, h.Redfish.Fingerprint, h.User)
			continue
		}
		fmt.Fprintf(&b, "\n  host %q {\n    power { address = %q }\n  }\n", h.Name, h.BMC)
	}
	b.WriteString("}\n")
	return b.String()
}

// maxSocket is how long the name of a socket may be; see unix(7).
const maxSocket = 107

// Agent submits jobs/agent.nomad.hcl. It finds Nomad at the socket that Nomad gives
// it, unless the stage's folder is too deep for the socket's name.
func (s *Stage) Agent(ctx context.Context) error {
	vars := map[string]string{"agent": filepath.Join(s.dir, "bin", "agent")}
	const id = "00000000-0000-0000-0000-000000000000"
	if socket := filepath.Join(s.dir, "gpu-1", "nomad", "alloc", id, "agent", "secrets", "api.sock"); len(socket) > maxSocket {
		vars["nomad_addr"] = "http://${attr.unique.network.ip-address}:4646"
	}
	return s.Submit(ctx, "agent.nomad.hcl", vars)
}

// Autoscaler submits jobs/autoscaler.nomad.hcl, with the BMCs' password where
// the job looks for it.
func (s *Stage) Autoscaler(ctx context.Context) error {
	_, _, err := s.Nomad().Variables().Create(&nomadapi.Variable{
		Path:  "nomad/jobs/gpupool-autoscaler",
		Items: nomadapi.VariableItems{"bmc_password": s.Password()},
	}, (&nomadapi.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("stage: put the BMCs' password: %w", err)
	}
	queues := ""
	if s.config.Queues != "" {
		queues = filepath.Join(s.dir, "queues.hcl")
		if err := os.WriteFile(queues, []byte(s.config.Queues), 0o600); err != nil {
			return fmt.Errorf("stage: %w", err)
		}
	}
	return s.Submit(ctx, "autoscaler.nomad.hcl", map[string]string{
		"queues":              queues,
		"bin":                 filepath.Join(s.dir, "bin"),
		"pools":               filepath.Join(s.dir, "pools.hcl"),
		"policy":              filepath.Join(s.root, "jobs", "policies", "gpu-hosts.hcl"),
		"nomad_addr":          s.NomadAddr(),
		"consul_addr":         s.ConsulAddr(),
		"evaluation_interval": s.config.EvaluationInterval.String(),
		"scale_in_after":      s.config.ScaleInAfter.String(),
		"log_level":           "debug",
	})
}

// Submit runs a file of jobs/ with Nomad's own command.
func (s *Stage) Submit(ctx context.Context, file string, vars map[string]string) error {
	args := []string{"job", "run", "-detach"}
	for name, value := range vars {
		args = append(args, "-var", name+"="+value)
	}
	return s.nomad(ctx, append(args, file)...)
}

// nomad runs Nomad's command in the folder of the job files.
func (s *Stage) nomad(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, s.Tools().Nomad, args...)
	cmd.Dir = filepath.Join(s.root, "jobs")
	cmd.Env = s.Env()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("stage: nomad %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// Train runs the batch job of jobs/train.nomad.hcl: n tasks that hold gpus GPUs
// each for so long.
func (s *Stage) Train(ctx context.Context, n, gpus int, d time.Duration) error {
	return s.Submit(ctx, "train.nomad.hcl", map[string]string{
		"count":   fmt.Sprint(n),
		"gpus":    fmt.Sprint(gpus),
		"command": fmt.Sprintf("echo on $NVIDIA_VISIBLE_DEVICES; exec sleep %g", d.Seconds()),
	})
}

// Serve runs the service job of jobs/serve.nomad.hcl with n instances.
func (s *Stage) Serve(ctx context.Context, n int) error {
	return s.Submit(ctx, "serve.nomad.hcl", map[string]string{
		"count":     fmt.Sprint(n),
		"command":   "echo on $NVIDIA_VISIBLE_DEVICES; exec sleep 86400",
		"autoscale": "false", // the test does
		"min":       "0",
	})
}

// Scale changes how many instances of the service job run. Nomad refuses that
// while the job's deployment is under way, so it is asked again until that is
// over.
func (s *Stage) Scale(ctx context.Context, n int) error {
	return lab.Until(ctx, fmt.Sprintf("job serve is scaled to %d", n), func(ctx context.Context) (bool, error) {
		err := s.nomad(ctx, "job", "scale", "-detach", "serve", "serve", fmt.Sprint(n))
		if err != nil && strings.Contains(err.Error(), "active deployment") {
			time.Sleep(500 * time.Millisecond)
			return false, nil
		}
		return err == nil, err
	})
}

// Running is the number of allocations of a job that run.
func (s *Stage) Running(ctx context.Context, job string) (int, error) {
	allocs, err := s.Allocs(ctx, job)
	n := 0
	for _, a := range allocs {
		if a.ClientStatus == nomadapi.AllocClientStatusRunning {
			n++
		}
	}
	return n, err
}

// UntilRunning waits until exactly n allocations of a job run.
func (s *Stage) UntilRunning(ctx context.Context, job string, n int) error {
	return lab.Until(ctx, fmt.Sprintf("%d allocations of job %s run", n, job), func(ctx context.Context) (bool, error) {
		running, err := s.Running(ctx, job)
		time.Sleep(200 * time.Millisecond)
		return running == n, err
	})
}

// UntilAllOff waits until nothing is wanted and every chassis is off, by the
// board and by the BMCs themselves.
func (s *Stage) UntilAllOff(ctx context.Context) error {
	err := s.UntilBoard(ctx, "nothing is wanted and all hosts are off", func(p board.Pool) bool {
		return p.Want != nil && p.Want.Count == 0 && Count(p, "off") == s.config.Hosts
	})
	for _, h := range s.Hosts() {
		if err == nil {
			err = h.UntilPower(ctx, false)
		}
	}
	return err
}

// ErrLost means that an allocation ended otherwise than by its own end or by
// the word of whoever runs the job.
var ErrLost = errors.New("work was lost")

// NothingLost makes sure that every allocation of the jobs either runs or came
// to its own end.
func (s *Stage) NothingLost(ctx context.Context, jobs ...string) error {
	for _, job := range jobs {
		allocs, err := s.Allocs(ctx, job)
		if err != nil {
			return err
		}
		for _, a := range allocs {
			if a.ClientStatus != nomadapi.AllocClientStatusComplete && a.ClientStatus != nomadapi.AllocClientStatusRunning {
				return fmt.Errorf("allocation %s of job %s is %s: %w", a.ID, job, a.ClientStatus, ErrLost)
			}
		}
	}
	return nil
}

// Board is how the pool stands, as `gpupool status` would show it, with the
// demand as apm-nvml reads it. What cannot be read is absent.
func (s *Stage) Board(ctx context.Context) board.Pool {
	p := board.Pool{Name: PoolName}
	if want, err := s.pool.Want(ctx); err == nil {
		p.Want = &want
	}
	if status, err := s.pool.Status(ctx); err == nil {
		p.Status = &status
	}
	if d, err := s.demand.Demand(ctx, nomad.PoolSpec{Name: PoolName, NodePool: "gpu", Device: "nvidia/gpu"}); err == nil {
		p.Demand = &board.Demand{Allocated: d.Allocated, Queued: d.Queued}
	}
	return p
}

// UntilBoard waits until the pool stands so.
func (s *Stage) UntilBoard(ctx context.Context, what string, ok func(board.Pool) bool) error {
	var last board.Pool
	err := lab.Until(ctx, what, func(ctx context.Context) (bool, error) {
		last = s.Board(ctx)
		return ok(last), nil
	})
	if err != nil {
		var b strings.Builder
		_ = board.Print(&b, last, time.Now())
		return fmt.Errorf("%w\n%s", err, b.String())
	}
	return nil
}

// Count is the number of hosts in a phase.
func Count(p board.Pool, phase string) int {
	n := 0
	if p.Status != nil {
		for _, h := range p.Status.Hosts {
			if h.Phase == phase {
				n++
			}
		}
	}
	return n
}
