package inventory

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/plainhcl"
	"github.com/gpupool/gpupool/internal/setting"
)

// Class is what hosts of one kind in a pool have in common. The fields have
// the meaning of the keys of the same name in docs/reference/pools.md.
type Class struct {
	Name   string
	Device string // Nomad device of its GPUs; the pool's where it is not said
	GPUs   int    // of a healthy host

	WattsBoot, WattsRun float64 // of one host; 0 is not known
	CostPerHour         float64
	Spot                bool
	Standby             int           // hosts
	BootTimeout         time.Duration // 0 is the pool's

	power *hclsyntax.Block // nil if it has none
	line  int
}

// Rack is what fails, or runs short of power, together.
type Rack struct {
	Name        string
	PowerBudget setting.Watts // of this pool's hosts in it; 0 is without limit
}

// class reads a class of a pool.
func (p *parser) class(b *hclsyntax.Block, pool *Pool) Class {
	poolSubj := plainhcl.Subject("pool", pool.Name)
	c := Class{Name: p.label(b, poolSubj), line: plainhcl.Line(b.TypeRange)}
	subj := poolSubj + ": " + plainhcl.Subject("class", c.Name)
	for _, inner := range b.Body.Blocks {
		switch {
		case inner.Type != "power":
			p.reject(plainhcl.Line(inner.TypeRange), subj, inner.Type, "there is no such block", setting.Suggest(inner.Type, []string{"power"}))
		case c.power != nil:
			p.reject(plainhcl.Line(inner.TypeRange), subj, "power", fmt.Sprintf("there is one on line %d already", plainhcl.Line(c.power.TypeRange)), "a class has one")
		default:
			if len(inner.Labels) > 0 {
				p.label(inner, subj)
			}
			c.power = inner
		}
	}
	r := setting.NewReader(setting.Place{Subject: subj, File: p.file, Line: c.line}, p.given(b.Body, subj))
	c.declare(r, pool)
	r.Finish(nil)
	c.checkTogether(r, pool)
	p.problems = append(p.problems, r.Problems()...)
	return c
}

// declare reads the settings of a class of a pool.
func (c *Class) declare(r *setting.Reader, pool *Pool) {
	c.Device = r.String("device", pool.Device, "The Nomad device of these hosts, with its model, where it is narrower than the pool's: a queued job that asks for a model then powers on a host that has it.", device)
	r.DefaultIs("device", "`device` of the pool")
	c.GPUs = r.Int("gpus", max(pool.GPUsPerHost, 1), "GPUs that a healthy host of this class fingerprints.", setting.Between(1, 64))
	r.DefaultIs("gpus", "`gpus_per_host` of the pool")
	c.WattsBoot = r.Float("watts_boot", 0, "Peak draw of one host while it boots, in watts; 0 is not known, and counts against no budget.", setting.Between(0.0, 100_000))
	c.WattsRun = r.Float("watts_run", 0, "Draw of one host in service under load, in watts; 0 is not known. Decides which host is the most efficient, and the energy estimate.", setting.Between(0.0, 100_000))
	c.CostPerHour = r.Float("cost_per_hour", 0, "Price of one host for an hour on, in a currency that all classes of the pool share. Cheaper hosts that fit are powered on first.", setting.Between(0.0, 1_000_000))
	c.Spot = r.Bool("spot", false, "The provider may take these hosts away at any time.")
	c.Standby = r.Int("standby", 0, "Hosts of this class that are kept in service without work, so that a job that only they fit starts at once.", setting.Between(0, maxHosts))
	c.BootTimeout = r.Duration("boot_timeout", 0, "As the pool's, for a kind that boots slower or faster.", setting.Rule[time.Duration]{
		Text: "1s to 24h", OK: func(d time.Duration) bool { return d == 0 || d >= time.Second && d <= 24*time.Hour },
	})
	r.DefaultIs("boot_timeout", "`boot_timeout` of the pool")
}

// checkTogether finds mistakes between a class and its pool.
func (c *Class) checkTogether(r *setting.Reader, pool *Pool) {
	if pool.Device != "" && !narrower(c.Device, pool.Device) {
		r.Reject("device", fmt.Sprintf("%.80q is not part of the pool's device %.80q, so no job of the pool would fit", c.Device, pool.Device),
			"begin it with the pool's, or widen the pool's")
	}
	if c.BootTimeout > 0 && c.BootTimeout < pool.PowerConfirm {
		r.Reject("boot_timeout", fmt.Sprintf("is %s, less than power_confirm of the pool, which is %s", c.BootTimeout, pool.PowerConfirm), "raise it")
	}
}

// narrower reports whether each device that is called a is one that is called b.
func narrower(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return a == b || strings.HasPrefix(a, b+"/")
}

// rack reads a rack of a pool.
func (p *parser) rack(b *hclsyntax.Block, poolSubj string) Rack {
	k := Rack{Name: p.label(b, poolSubj)}
	subj := poolSubj + ": " + plainhcl.Subject("rack", k.Name)
	for _, inner := range b.Body.Blocks {
		p.reject(plainhcl.Line(inner.TypeRange), subj, inner.Type, "there is no such block", "take it out")
	}
	r := setting.NewReader(setting.Place{Subject: subj, File: p.file, Line: plainhcl.Line(b.TypeRange)}, p.given(b.Body, subj))
	k.declare(r)
	r.Finish(nil)
	p.problems = append(p.problems, r.Problems()...)
	return k
}

func (k *Rack) declare(r *setting.Reader) {
	k.PowerBudget = r.Watts("power_budget", 0, "What the pool's hosts in this rack may draw together, by the figures of their classes. A host that would exceed it is not powered on.", setting.Between[setting.Watts](0, 10_000_000))
	r.DefaultIs("power_budget", "without limit")
}

// parts reads the classes and racks of a pool; powered says that it has a power
// block of its own.
func (p *parser) parts(pool *Pool, classes, racks []*hclsyntax.Block, powered bool) {
	subj := plainhcl.Subject("pool", pool.Name)
	twice := func(kind string, b *hclsyntax.Block, label string, lines map[string]int) bool {
		at, found := lines[label]
		if found {
			p.reject(plainhcl.Line(b.TypeRange), subj, kind, fmt.Sprintf("there is a %s %q on line %d", kind, label, at), fmt.Sprintf("give each %s a name of its own", kind))
		}
		lines[label] = plainhcl.Line(b.TypeRange)
		return found
	}
	lines := make(map[string]int)
	for _, b := range classes {
		c := p.class(b, pool)
		if c.power != nil && len(c.power.Labels) == 0 && !powered {
			p.reject(plainhcl.Line(c.power.TypeRange), subj+": "+plainhcl.Subject("class", c.Name), "power", "names no driver, and the pool has none", `write power "DRIVER" { ... }`)
			c.power = nil
		}
		if c.Name != "" && !twice("class", b, c.Name, lines) {
			pool.Classes = append(pool.Classes, c)
		}
	}
	lines = make(map[string]int)
	for _, b := range racks {
		if k := p.rack(b, subj); k.Name != "" && !twice("rack", b, k.Name, lines) {
			pool.Racks = append(pool.Racks, k)
		}
	}
	for _, k := range pool.Racks {
		for _, c := range pool.Classes {
			if k.PowerBudget > 0 && max(c.WattsBoot, c.WattsRun) > float64(k.PowerBudget) {
				p.reject(lines[k.Name], subj+": "+plainhcl.Subject("rack", k.Name), "power_budget",
					fmt.Sprintf("is %s, and one host of class %q takes %s", k.PowerBudget, c.Name, setting.Watts(max(c.WattsBoot, c.WattsRun))), "raise it, or correct watts_boot and watts_run")
			}
		}
	}
}

// Class returns the class of that name.
func (pool *Pool) Class(name string) (Class, bool) {
	i := slices.IndexFunc(pool.Classes, func(c Class) bool { return c.Name == name })
	if i < 0 {
		return Class{}, false
	}
	return pool.Classes[i], true
}

// rackName is what fits a status and a command line.
var rackName = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,63}$`)
