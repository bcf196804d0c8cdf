// Package inventory reads pools.hcl: which hosts there are, in which pools,
// how each is powered, and the rules of each pool. docs/reference/pools.md has
// every key.
//
// The file is HCL with plain values only: no variables, functions, operators
// or interpolation. Credentials are never in it, only references to them,
// which are resolved each time that a driver's configuration is decoded.
package inventory

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gpupool/gpupool/internal/setting"
)

const (
	maxFile     = 4 << 20 // bytes
	maxHosts    = 10_000  // in all pools together
	maxWarnings = 100     // that are kept; past that it is one habit
)

// Inventory is the content of pools.hcl, found right.
type Inventory struct {
	Pools []Pool // sorted by name

	// Warnings are about what works but should not stay, such as a
	// credential file that others can read.
	Warnings []string
}

// Pool returns the pool of that name.
func (inv *Inventory) Pool(name string) (Pool, bool) {
	for _, p := range inv.Pools {
		if p.Name == name {
			return p, true
		}
	}
	return Pool{}, false
}

// Pool is one set of interchangeable GPU hosts and its rules. The fields have
// the meaning of the keys of the same name in docs/reference/pools.md.
type Pool struct {
	Name        string
	NodePool    string // Nomad node pool
	Device      string // Nomad device that jobs ask for: "nvidia/gpu", "nvidia/gpu/H100"
	GPUsPerHost int

	Min, Max                int // hosts
	Spare                   int // hosts
	MaxBooting, MaxDraining int // hosts at once

	Stagger     time.Duration
	MinOn       time.Duration
	CycleBudget int // power-ons of a host in a day; 0 is without limit

	BootTimeout    time.Duration
	SoftOffTimeout time.Duration
	DrainDeadline  time.Duration
	PowerConfirm   time.Duration
	Poll           time.Duration
	StaleAfter     time.Duration // at least twice Poll
	Fence          time.Duration
	HardOff        bool
	Agent          string // AgentRequired, AgentOptional or AgentNone
	DrainWork      string // DrainNone, DrainServices or DrainAll

	Classes []Class // in the order of the file; none for a pool of one kind
	Racks   []Rack  // in the order of the file; those that say more than their name

	Hosts []Host // sorted by ID, at least one
}

// The values of Pool.DrainWork.
const (
	DrainNone     = "none"
	DrainServices = "services"
	DrainAll      = "all"
)

// The values of Pool.Agent.
const (
	AgentRequired = "required"
	AgentOptional = "optional"
	AgentNone     = "none"
)

// Host is one machine.
type Host struct {
	ID    string // unique in its pool, fit for a Consul key
	Node  string // name of its Nomad node, unique in the file
	GPUs  int    // that a healthy host has
	Class string // name of its class; empty if its pool has none
	Rack  string // what it fails, or runs short of power, with; empty if not known
	Power Power
}

// Check is what the inventory needs to know of power drivers. It reads a
// host's power configuration as its driver does and returns the identity of
// the controller that it reaches, so that two hosts with one controller can be
// told; empty if hosts of this driver may share one. It does no I/O. If err is
// made of several (errors.Join) and each begins with a key and a colon, each
// is reported on the line of its key.
type Check func(driver string, decode func(into any) error) (controller string, err error)

// Option changes how an inventory is read.
type Option func(*parser)

// Lenient is for who looks and changes nothing: a credential that cannot be
// had here is a warning rather than a mistake. All else is as strict. The
// [Power.Decode] of its host fails as before.
func Lenient() Option { return func(p *parser) { p.lenient = true } }

// Load reads the inventory from a file. See [Parse].
func Load(path string, check Check, options ...Option) (*Inventory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("inventory: %s is a directory; name the file in it", path)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return Parse(path, src, check, options...)
}

// Parse reads the inventory from the content of a file. The error has all
// mistakes, each with file, line, key and mend; it is a [setting.Problems].
// With a nil check, drivers and their settings are taken as they are, and
// controllers are compared by their address.
func Parse(filename string, src []byte, check Check, options ...Option) (*Inventory, error) {
	if len(src) > maxFile {
		return nil, setting.Problem{File: filename, What: fmt.Sprintf("is larger than %d bytes", maxFile), Mend: "is it the right file?"}
	}
	p := &parser{file: filename, check: check}
	for _, o := range options {
		o(p)
	}
	inv := p.parse(src)
	if err := p.problems.Err(); err != nil {
		return nil, err
	}
	return inv, nil
}
