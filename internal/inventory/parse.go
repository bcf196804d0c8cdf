package inventory

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/gpupool/gpupool/internal/setting"
)

// parser collects what one file says and all that is wrong with it.
type parser struct {
	file     string
	check    Check
	problems setting.Problems
	warnings []string

	hosts       int
	nodes       map[string]place // by name of the Nomad node
	controllers map[string]place // by identity of the power controller
}

// place is where a host was said, for messages about a second one.
type place struct {
	host string
	line int
}

func (p *parser) reject(line int, subject, key, what, mend string) {
	p.problems = append(p.problems, setting.Problem{File: p.file, Line: line, Subject: subject, Key: key, What: what, Mend: mend})
}

func (p *parser) parse(src []byte) *Inventory {
	p.nodes = make(map[string]place)
	p.controllers = make(map[string]place)
	if !p.checkPlain(src) {
		return nil
	}
	file, diags := hclsyntax.ParseConfig(src, p.file, hcl.InitialPos)
	for _, d := range diags {
		p.problems = append(p.problems, fromHCL(d, p.file, ""))
	}
	if len(diags) > 0 {
		return nil // what the parser made of the rest is a guess
	}
	body := file.Body.(*hclsyntax.Body)

	for _, a := range sortedAttrs(body) {
		p.reject(line(a.NameRange), "", a.Name, "stands outside of any pool", `put it into a pool "NAME" { ... } block`)
	}
	inv := new(Inventory)
	lines := make(map[string]int)
	for _, b := range body.Blocks {
		if b.Type != "pool" {
			p.reject(line(b.TypeRange), "", b.Type, "there is no such block", setting.Suggest(b.Type, []string{"pool"}))
			continue
		}
		pool := p.pool(b)
		if pool.Name == "" {
			continue
		}
		if at, found := lines[pool.Name]; found {
			p.reject(line(b.TypeRange), subject("pool", pool.Name), "", fmt.Sprintf("there is a pool of this name on line %d", at), "give each pool a name of its own")
		}
		lines[pool.Name] = line(b.TypeRange)
		inv.Pools = append(inv.Pools, pool)
	}
	if len(body.Blocks) == 0 {
		p.reject(1, "", "", "there is no pool", `write one: pool "NAME" { node_pool = "NAME" ... }`)
	}
	p.checkOverlap(inv.Pools, lines)
	slices.SortFunc(inv.Pools, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(p.warnings)
	inv.Warnings = slices.Compact(p.warnings)
	return inv
}

// checkOverlap refuses two pools that would both answer one queued job.
func (p *parser) checkOverlap(pools []Pool, lines map[string]int) {
	for i, a := range pools {
		for _, b := range pools[:i] {
			if a.Name != b.Name && a.NodePool != "" && a.NodePool == b.NodePool && a.Device == b.Device {
				p.reject(lines[a.Name], subject("pool", a.Name), "device",
					fmt.Sprintf("pool %q has the same node_pool and device, so both would start hosts for one job", b.Name),
					`tell them apart by node_pool, or by the model in device ("nvidia/gpu/H100")`)
			}
		}
	}
}

// name is what fits a segment of a Consul key and a command line.
var name = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,63}$`)

// label returns the one label of a block.
func (p *parser) label(b *hclsyntax.Block, subj string) string {
	if len(b.Labels) != 1 {
		p.reject(line(b.TypeRange), subj, b.Type, fmt.Sprintf("has %d names", len(b.Labels)), fmt.Sprintf("write %s \"NAME\" { ... }", b.Type))
		return ""
	}
	if !name.MatchString(b.Labels[0]) {
		p.reject(line(b.TypeRange), subj, b.Type, fmt.Sprintf("%.80q is not a name", b.Labels[0]),
			"use 1 to 64 of the characters a-z, A-Z, 0-9, dot, dash and underscore, not beginning with a dot")
	}
	return b.Labels[0]
}

func (p *parser) pool(b *hclsyntax.Block) Pool {
	pool := Pool{Name: p.label(b, "")}
	subj := subject("pool", pool.Name)

	var hosts []*hclsyntax.Block
	var defaults *hclsyntax.Block
	for _, inner := range b.Body.Blocks {
		switch inner.Type {
		case "host":
			hosts = append(hosts, inner)
		case "power":
			if defaults != nil {
				p.reject(line(inner.TypeRange), subj, "power", fmt.Sprintf("there is one on line %d already", line(defaults.TypeRange)), "a pool has one; a host may have another of its own")
				continue
			}
			p.label(inner, subj)
			defaults = inner
		default:
			p.reject(line(inner.TypeRange), subj, inner.Type, "there is no such block", setting.Suggest(inner.Type, []string{"host", "power"}))
		}
	}

	r := setting.NewReader(setting.Place{Subject: subj, File: p.file, Line: line(b.TypeRange)}, p.given(b.Body, subj))
	pool.declare(r, len(hosts))
	r.Finish(nil)
	pool.checkTogether(r, len(hosts))
	p.problems = append(p.problems, r.Problems()...)
	if len(hosts) == 0 {
		p.reject(line(b.TypeRange), subj, "host", "the pool has no hosts", `write a host "NAME" { ... } block for each`)
	}

	lines := make(map[string]int)
	for _, h := range hosts {
		if p.hosts++; p.hosts > maxHosts {
			p.reject(line(h.TypeRange), subj, "host", fmt.Sprintf("there are more than %d hosts", maxHosts), "split the file between several autoscalers")
			break
		}
		host := p.host(h, defaults, pool)
		if host.ID == "" {
			continue
		}
		if at, found := lines[host.ID]; found {
			p.reject(line(h.TypeRange), subj, "host", fmt.Sprintf("there is a host %q on line %d", host.ID, at), "give each host a name of its own")
		}
		lines[host.ID] = line(h.TypeRange)
		pool.Hosts = append(pool.Hosts, host)
	}
	slices.SortFunc(pool.Hosts, func(a, b Host) int { return cmp.Compare(a.ID, b.ID) })
	return pool
}

// declare reads the settings of a pool with so many hosts.
func (pool *Pool) declare(r *setting.Reader, hosts int) {
	const s, day = time.Second, 24 * time.Hour
	blink := 100 * time.Millisecond

	pool.NodePool = r.String("node_pool", "", "The Nomad node pool that the hosts join and that jobs name. Nodes of other pools are never touched.", nodePool)
	pool.Device = r.String("device", "nvidia/gpu", "The Nomad device that jobs ask for, as type, vendor/type or vendor/type/model. Name the model where one node pool has hosts of several.", device)
	pool.GPUsPerHost = r.Int("gpus_per_host", 0, "GPUs that a healthy host fingerprints. A host with fewer is not taken into service.", setting.Between(1, 64))

	pool.Min = r.Int("min", 0, "Hosts that are kept in service whatever is wanted. Raise it where the first job must not wait for a boot.", setting.Between(0, maxHosts))
	pool.Max = r.Int("max", hosts, "Hosts that may be on. Lower it to leave machines alone for a while.", setting.Between(0, maxHosts))
	r.DefaultIs("max", "all hosts of the pool")
	pool.Spare = r.Int("spare", 0, "Hosts kept in service beyond those that are wanted, so that the next job finds one warm.", setting.Between(0, maxHosts))
	pool.MaxBooting = r.Int("max_booting", 2, "Hosts that boot at once. Lower it where in-rush current or a boot server is the limit.", setting.Between(1, maxHosts))
	pool.MaxDraining = r.Int("max_draining", 1, "Hosts that drain at once. Raise it where scale-in is too slow.", setting.Between(1, maxHosts))

	pool.Stagger = r.Duration("stagger", 0, "Least time between two power-ons, and between two power-offs, in the pool. Raise it where many power supplies at once trip a breaker.", setting.Between(0, time.Hour))
	pool.MinOn = r.Duration("min_on", 0, "How long a host stays on at least once it was powered on.", setting.Between(0, 7*day))
	pool.CycleBudget = r.Int("cycle_budget", 0, "Power-ons of a host in a day (UTC) at most; 0 is without limit. Set it where wear of fans, disks or power supplies is a worry.", setting.Between(0, 1000))
	pool.BootTimeout = r.Duration("boot_timeout", 15*time.Minute, "From power-on to a ready Nomad node with all its GPUs. A host that takes longer is given up and another one is tried; set it well above the slowest good boot.", setting.Between(s, day))
	pool.PowerConfirm = r.Duration("power_confirm", time.Minute, "How long a chassis may still read off after power-on before the command is given again. Raise it for slow power controllers.", setting.Between(s, time.Hour))
	pool.DrainDeadline = r.Duration("drain_deadline", 15*time.Minute, "How long a drain waits for jobs to move before Nomad stops them. Raise it for jobs that shut down slowly.", setting.Between(s, 7*day))
	pool.SoftOffTimeout = r.Duration("soft_off_timeout", 5*time.Minute, "How long a host may take to shut down when asked.", setting.Between(s, day))
	pool.HardOff = r.Bool("hard_off", false, "Cut the power of a drained host that does not shut down within soft_off_timeout. Without it the soft off is repeated.")

	pool.Poll = r.Duration("poll", 10*s, "How often the pool is looked at. The power controller of a host that nothing was done to lately is asked once in half of stale_after.", setting.Between(blink, 10*time.Minute))
	pool.StaleAfter = r.Duration("stale_after", 45*s, "Age at which what was seen of a host is no longer acted upon. At least twice poll.", setting.Between(2*blink, time.Hour))
	pool.Fence = r.Duration("fence", 10*s, "How long a host is left alone after a power command whose outcome is not known. Raise it for power controllers that carry commands out late.", setting.Between(blink, 10*time.Minute))

	pool.Agent = r.OneOf("agent", AgentRequired, "Whether a host must run the gpupool agent. required: a host is in service only while its agent is well, and is powered off only when the agent sees idle GPUs. optional: an agent is heard where there is one. none: agents are not asked.",
		AgentRequired, AgentOptional, AgentNone)
}

var nodePoolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`)

var nodePool = setting.Rule[string]{
	Text: `a Nomad node pool other than "all"`,
	OK:   func(s string) bool { return s != "all" && nodePoolName.MatchString(s) },
}

var device = setting.Rule[string]{
	Text: "one to three parts separated by slashes",
	OK: func(s string) bool {
		parts := strings.SplitN(s, "/", 3)
		return len(s) <= 256 && !slices.Contains(parts, "")
	},
}

// checkTogether finds mistakes between settings that are right by themselves.
func (pool *Pool) checkTogether(r *setting.Reader, hosts int) {
	if pool.Max > hosts {
		r.Reject("max", fmt.Sprintf("is %d, more than the pool has hosts, which is %d", pool.Max, hosts), "lower it, or add hosts")
	}
	if pool.Min > pool.Max {
		r.Reject("min", fmt.Sprintf("is %d, more than max, which is %d", pool.Min, pool.Max), "lower min or raise max")
	}
	if pool.StaleAfter < 2*pool.Poll {
		r.Reject("stale_after", fmt.Sprintf("is %s, less than twice poll, which is %s, so one slow look would stop the pool", pool.StaleAfter, pool.Poll),
			fmt.Sprintf("write at least %q", (2*pool.Poll).String()))
	}
	if pool.BootTimeout < pool.PowerConfirm {
		r.Reject("boot_timeout", fmt.Sprintf("is %s, less than power_confirm, which is %s", pool.BootTimeout, pool.PowerConfirm), "raise it")
	}
}

func (p *parser) host(b *hclsyntax.Block, defaults *hclsyntax.Block, pool Pool) Host {
	poolSubj := subject("pool", pool.Name)
	host := Host{ID: p.label(b, poolSubj)}
	if host.ID == "" {
		return host
	}
	subj := poolSubj + ": " + subject("host", host.ID)

	var own *hclsyntax.Block
	for _, inner := range b.Body.Blocks {
		switch {
		case inner.Type != "power":
			p.reject(line(inner.TypeRange), subj, inner.Type, "there is no such block", setting.Suggest(inner.Type, []string{"power"}))
		case own != nil:
			p.reject(line(inner.TypeRange), subj, "power", fmt.Sprintf("there is one on line %d already", line(own.TypeRange)), "a host has one")
		default:
			own = inner
		}
	}

	r := setting.NewReader(setting.Place{Subject: subj, File: p.file, Line: line(b.TypeRange)}, p.given(b.Body, subj))
	host.declare(r, pool.GPUsPerHost)
	r.Finish(nil)
	p.problems = append(p.problems, r.Problems()...)

	if first, found := p.nodes[host.Node]; found {
		p.reject(line(b.TypeRange), subj, "node", fmt.Sprintf("%q is also the node of host %q on line %d", host.Node, first.host, first.line), "each Nomad node is one host")
	} else {
		p.nodes[host.Node] = place{host.ID, line(b.TypeRange)}
	}
	host.Power = p.power(b, own, defaults, poolSubj, subj)
	return host
}

// declare reads the settings of a host whose pool has so many GPUs in each.
func (host *Host) declare(r *setting.Reader, gpus int) {
	host.Node = r.String("node", host.ID, "The name of the host's Nomad node.", setting.Rule[string]{
		Text: "", OK: func(s string) bool { return s != "" && len(s) <= 256 },
	})
	r.DefaultIs("node", "the name of the host")
	host.GPUs = r.Int("gpus", max(gpus, 1), "GPUs that this host has when healthy, where it differs from the rest of the pool.", setting.Between(1, 64))
	r.DefaultIs("gpus", "`gpus_per_host` of the pool")
}

// power reads a host's power block over its pool's.
func (p *parser) power(host, own, defaults *hclsyntax.Block, poolSubj, subj string) Power {
	at := host
	if own != nil {
		at = own
		if len(own.Labels) > 0 {
			p.label(own, subj)
		}
	}
	var driver string
	switch {
	case own != nil && len(own.Labels) > 0:
		driver = own.Labels[0]
	case defaults != nil && len(defaults.Labels) > 0:
		driver = defaults.Labels[0]
	case defaults != nil:
		return Power{} // reported with the pool
	default:
		p.reject(line(at.TypeRange), subj, "power", "it is not said how to power the host", `write power "DRIVER" { ... } in the host or in its pool`)
		return Power{}
	}

	pw := newPower(p.file, driver, at, subj)
	if defaults != nil && len(defaults.Labels) == 1 && defaults.Labels[0] == driver {
		pw.add(defaults.Body, poolSubj+": "+subject("power", driver))
	}
	if own != nil {
		pw.add(own.Body, subj+": "+subject("power", driver))
	}
	controller, problems := pw.verify(p.check)
	p.problems = append(p.problems, problems...)
	p.warnings = append(p.warnings, pw.warnings()...)
	if controller == "" {
		return pw
	}
	if first, found := p.controllers[controller]; found {
		p.reject(line(at.TypeRange), subj, "power", fmt.Sprintf("host %q on line %d has the same power controller (%s)", first.host, first.line, controller),
			"two hosts with one controller would switch each other off; correct the address")
	} else {
		p.controllers[controller] = place{host.Labels[0], line(host.TypeRange)}
	}
	return pw
}

// given returns the attributes of a block as texts.
func (p *parser) given(body *hclsyntax.Body, subj string) map[string]setting.Given {
	out := make(map[string]setting.Given)
	for _, a := range sortedAttrs(body) {
		v, diags := a.Expr.Value(nil)
		text, ok := "", false
		if !diags.HasErrors() {
			text, ok = scalar(v)
		}
		if !ok {
			p.reject(line(a.NameRange), subj, a.Name, "is no plain value", "write a number, true, false, or text in quotes")
		}
		out[a.Name] = setting.Given{Text: text, Line: line(a.NameRange), Rejected: !ok}
	}
	return out
}

// scalar returns the text of a text, number or truth value.
func scalar(v cty.Value) (string, bool) {
	if v.IsNull() || !v.IsKnown() {
		return "", false
	}
	switch v.Type() {
	case cty.String:
		return v.AsString(), true
	case cty.Bool:
		return fmt.Sprint(v.True()), true
	case cty.Number:
		return v.AsBigFloat().Text('f', -1), true // checkPlain bounded its digits
	}
	return "", false
}

func sortedAttrs(body *hclsyntax.Body) []*hclsyntax.Attribute {
	var out []*hclsyntax.Attribute
	for _, a := range body.Attributes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.NameRange.Start.Byte, b.NameRange.Start.Byte)
	})
	return out
}

// fromHCL turns an error of the HCL library into ours.
func fromHCL(d *hcl.Diagnostic, file, subj string) setting.Problem {
	pr := setting.Problem{File: file, Subject: subj, What: d.Summary, Mend: d.Detail}
	if d.Subject != nil {
		pr.Line = line(*d.Subject)
	}
	return pr
}

func subject(kind, label string) string {
	if label == "" {
		return kind
	}
	return fmt.Sprintf("%s %.80q", kind, label)
}

func line(r hcl.Range) int { return r.Start.Line }
