package inventory

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/plainhcl"
	"github.com/gpupool/gpupool/internal/setting"
)

// parser collects what one file says and all that is wrong with it.
type parser struct {
	file     string
	check    Check
	lenient  bool // see [Lenient]
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
	body, problems := plainhcl.Parse(p.file, src)
	p.problems = append(p.problems, problems...)
	if body == nil {
		return nil
	}

	for _, a := range plainhcl.Attributes(body) {
		p.reject(plainhcl.Line(a.NameRange), "", a.Name, "stands outside of any pool", `put it into a pool "NAME" { ... } block`)
	}
	inv := new(Inventory)
	lines := make(map[string]int)
	for _, b := range body.Blocks {
		if b.Type != "pool" {
			p.reject(plainhcl.Line(b.TypeRange), "", b.Type, "there is no such block", setting.Suggest(b.Type, []string{"pool"}))
			continue
		}
		pool := p.pool(b)
		if pool.Name == "" {
			continue
		}
		if at, found := lines[pool.Name]; found {
			p.reject(plainhcl.Line(b.TypeRange), plainhcl.Subject("pool", pool.Name), "", fmt.Sprintf("there is a pool of this name on line %d", at), "give each pool a name of its own")
		}
		lines[pool.Name] = plainhcl.Line(b.TypeRange)
		inv.Pools = append(inv.Pools, pool)
	}
	if len(body.Blocks) == 0 {
		p.reject(1, "", "", "there is no pool", `write one: pool "NAME" { node_pool = "NAME" ... }`)
	}
	p.checkOverlap(inv.Pools, lines)
	slices.SortFunc(inv.Pools, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(p.warnings)
	inv.Warnings = slices.Compact(p.warnings)
	if more := len(inv.Warnings) - maxWarnings; more > 0 {
		inv.Warnings = append(inv.Warnings[:maxWarnings:maxWarnings], fmt.Sprintf("%s: and %d warnings more", p.file, more))
	}
	return inv
}

// checkOverlap refuses two pools that would both answer one queued job.
func (p *parser) checkOverlap(pools []Pool, lines map[string]int) {
	for i, a := range pools {
		for _, b := range pools[:i] {
			if a.Name != b.Name && a.NodePool != "" && a.NodePool == b.NodePool && a.Device == b.Device {
				p.reject(lines[a.Name], plainhcl.Subject("pool", a.Name), "device",
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
		p.reject(plainhcl.Line(b.TypeRange), subj, b.Type, fmt.Sprintf("has %d names", len(b.Labels)), fmt.Sprintf("write %s \"NAME\" { ... }", b.Type))
		return ""
	}
	if !name.MatchString(b.Labels[0]) {
		p.reject(plainhcl.Line(b.TypeRange), subj, b.Type, fmt.Sprintf("%.80q is not a name", b.Labels[0]),
			"use 1 to 64 of the characters a-z, A-Z, 0-9, dot, dash and underscore, not beginning with a dot")
	}
	return b.Labels[0]
}

func (p *parser) pool(b *hclsyntax.Block) Pool {
	pool := Pool{Name: p.label(b, "")}
	subj := plainhcl.Subject("pool", pool.Name)

	var hosts, classes, racks []*hclsyntax.Block
	var defaults *hclsyntax.Block
	for _, inner := range b.Body.Blocks {
		switch inner.Type {
		case "host":
			hosts = append(hosts, inner)
		case "class":
			classes = append(classes, inner)
		case "rack":
			racks = append(racks, inner)
		case "power":
			if defaults != nil {
				p.reject(plainhcl.Line(inner.TypeRange), subj, "power", fmt.Sprintf("there is one on line %d already", plainhcl.Line(defaults.TypeRange)), "a pool has one; a class and a host may have another of their own")
				continue
			}
			p.label(inner, subj)
			defaults = inner
		default:
			p.reject(plainhcl.Line(inner.TypeRange), subj, inner.Type, "there is no such block", setting.Suggest(inner.Type, []string{"class", "host", "power", "rack"}))
		}
	}

	r := setting.NewReader(setting.Place{Subject: subj, File: p.file, Line: plainhcl.Line(b.TypeRange)}, p.given(b.Body, subj))
	pool.declare(r, len(hosts))
	r.Finish(nil)
	pool.checkTogether(r, len(hosts))
	p.problems = append(p.problems, r.Problems()...)
	p.parts(&pool, classes, racks, defaults != nil)
	if len(hosts) == 0 {
		p.reject(plainhcl.Line(b.TypeRange), subj, "host", "the pool has no hosts", `write a host "NAME" { ... } block for each`)
	}

	lines := make(map[string]int)
	for _, h := range hosts {
		if p.hosts++; p.hosts > maxHosts {
			p.reject(plainhcl.Line(h.TypeRange), subj, "host", fmt.Sprintf("there are more than %d hosts", maxHosts), "split the file between several autoscalers")
			break
		}
		host := p.host(h, defaults, &pool)
		if host.ID == "" {
			continue
		}
		if at, found := lines[host.ID]; found {
			p.reject(plainhcl.Line(h.TypeRange), subj, "host", fmt.Sprintf("there is a host %q on line %d", host.ID, at), "give each host a name of its own")
		}
		lines[host.ID] = plainhcl.Line(h.TypeRange)
		pool.Hosts = append(pool.Hosts, host)
	}
	slices.SortFunc(pool.Hosts, func(a, b Host) int { return cmp.Compare(a.ID, b.ID) })
	p.checkParts(&pool, subj)
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
	pool.Max = r.Int("max", hosts, "Hosts that may be on, at most. Idle ones above it are powered off: to have a machine left alone, use `gpupool host hold`, or take it out of the file.", setting.Between(0, maxHosts))
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

	pool.Poll = r.Duration("poll", 10*s, "How often the pool is looked at. The power controller of a host that nothing was done to lately is asked once in a quarter to a half of stale_after.", setting.Between(blink, 10*time.Minute))
	pool.StaleAfter = r.Duration("stale_after", 45*s, "Age at which what was seen of a host is no longer acted upon. At least twice poll.", setting.Between(2*blink, time.Hour))
	pool.Fence = r.Duration("fence", 10*s, "How long a host is left alone after a power command whose outcome is not known. Raise it for power controllers that carry commands out late.", setting.Between(blink, 10*time.Minute))

	pool.Agent = r.OneOf("agent", AgentRequired, "Whether a host must run the gpupool agent. required: a host is in service only while its agent is well, and is powered off only when the agent sees idle GPUs. optional: an agent is heard where there is one. none: agents are not asked.",
		AgentRequired, AgentOptional, AgentNone)
	pool.DrainWork = r.OneOf("drain_work", DrainNone, "Which work may be drained away from a surplus host. none: only hosts without work are taken out of service. services: hosts that run service jobs only too, which Nomad places elsewhere. all: batch jobs too, which begin again from their start.",
		DrainNone, DrainServices, DrainAll)
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

func (p *parser) host(b *hclsyntax.Block, defaults *hclsyntax.Block, pool *Pool) Host {
	poolSubj := plainhcl.Subject("pool", pool.Name)
	host := Host{ID: p.label(b, poolSubj)}
	if host.ID == "" {
		return host
	}
	subj := poolSubj + ": " + plainhcl.Subject("host", host.ID)

	var own *hclsyntax.Block
	for _, inner := range b.Body.Blocks {
		switch {
		case inner.Type != "power":
			p.reject(plainhcl.Line(inner.TypeRange), subj, inner.Type, "there is no such block", setting.Suggest(inner.Type, []string{"power"}))
		case own != nil:
			p.reject(plainhcl.Line(inner.TypeRange), subj, "power", fmt.Sprintf("there is one on line %d already", plainhcl.Line(own.TypeRange)), "a host has one")
		default:
			own = inner
		}
	}

	r := setting.NewReader(setting.Place{Subject: subj, File: p.file, Line: plainhcl.Line(b.TypeRange)}, p.given(b.Body, subj))
	class := host.declare(r, pool)
	r.Finish(nil)
	p.problems = append(p.problems, r.Problems()...)

	if first, found := p.nodes[host.Node]; found {
		p.reject(plainhcl.Line(b.TypeRange), subj, "node", fmt.Sprintf("%q is also the node of host %q on line %d", host.Node, first.host, first.line), "each Nomad node is one host")
	} else {
		p.nodes[host.Node] = place{host.ID, plainhcl.Line(b.TypeRange)}
	}
	var blocks []powerBlock
	if defaults != nil {
		blocks = append(blocks, powerBlock{defaults, poolSubj})
	}
	if class.power != nil {
		blocks = append(blocks, powerBlock{class.power, poolSubj + ": " + plainhcl.Subject("class", class.Name)})
	}
	if own != nil {
		if len(own.Labels) > 0 {
			p.label(own, subj)
		}
		blocks = append(blocks, powerBlock{own, subj})
	}
	if defaults == nil || len(defaults.Labels) == 1 { // or it is reported with the pool
		host.Power = p.power(b, blocks, subj)
	}
	return host
}

// declare reads the settings of a host of a pool, and returns its class.
func (host *Host) declare(r *setting.Reader, pool *Pool) Class {
	host.Node = r.String("node", host.ID, "The name of the host's Nomad node.", setting.Rule[string]{
		Text: "", OK: func(s string) bool { return s != "" && len(s) <= 256 },
	})
	r.DefaultIs("node", "the name of the host")
	host.Class = r.String("class", "", "The name of its class, which is required where the pool has any.")
	class, found := pool.Class(host.Class)
	var names []string
	for _, c := range pool.Classes {
		names = append(names, c.Name)
	}
	switch {
	case found:
	case host.Class != "":
		r.Reject("class", fmt.Sprintf("there is no class %.80q in the pool", host.Class), setting.Suggest(host.Class, names))
	case len(names) > 0:
		r.Reject("class", "is not there, and the pool has classes", "add it: "+setting.Suggest("", names))
	}
	host.Rack = r.String("rack", "", "What the host fails, or runs short of power, with: a rack, a row, a zone. Hosts are spread over racks. Where the pool has rack blocks, it is one of them.", setting.Rule[string]{
		Text: "a name", OK: func(s string) bool { return s == "" || rackName.MatchString(s) },
	})
	if host.Rack != "" && len(pool.Racks) > 0 && !slices.ContainsFunc(pool.Racks, func(k Rack) bool { return k.Name == host.Rack }) {
		var known []string
		for _, k := range pool.Racks {
			known = append(known, k.Name)
		}
		r.Reject("rack", fmt.Sprintf("there is no rack %q in the pool, so no power budget would hold for the host", host.Rack), setting.Suggest(host.Rack, known)+` Or write rack "`+host.Rack+`" {}`)
	}
	gpus := pool.GPUsPerHost
	if found {
		gpus = class.GPUs
	}
	host.GPUs = r.Int("gpus", max(gpus, 1), "GPUs that this host has when healthy, where it differs from the rest.", setting.Between(1, 64))
	r.DefaultIs("gpus", "`gpus` of the class, or `gpus_per_host` of the pool")
	return class
}

// checkParts finds mistakes between hosts and the classes and racks of their
// pool.
func (p *parser) checkParts(pool *Pool, subj string) {
	of := make(map[string]int)
	in := make(map[string]int)
	for _, h := range pool.Hosts {
		of[h.Class]++
		in[h.Rack]++
	}
	for _, c := range pool.Classes {
		if c.Standby > of[c.Name] {
			p.reject(c.line, subj+": "+plainhcl.Subject("class", c.Name), "standby", fmt.Sprintf("is %d, more than the class has hosts, which is %d", c.Standby, of[c.Name]), "lower it, or add hosts")
		}
	}
	for _, k := range pool.Racks {
		if k.PowerBudget > 0 && in[k.Name] == 0 {
			p.warnings = append(p.warnings, fmt.Sprintf("%s: %s: %s: no host is in it, so its power_budget holds for nothing", p.file, subj, plainhcl.Subject("rack", k.Name)))
		}
	}
}

// powerBlock is a power block and who has it.
type powerBlock struct {
	*hclsyntax.Block
	owner string
}

// power reads how a host is powered from its power blocks, the least specific
// first. The last one that names a driver decides which; a block of another
// driver is left out, and what is left is laid over each other.
func (p *parser) power(host *hclsyntax.Block, blocks []powerBlock, subj string) Power {
	at, driver := host, ""
	for _, b := range blocks {
		if len(b.Labels) > 0 && b.Labels[0] != driver {
			driver = b.Labels[0]
		}
		if b.owner == subj {
			at = b.Block
		}
	}
	if driver == "" {
		p.reject(plainhcl.Line(at.TypeRange), subj, "power", "it is not said how to power the host", `write power "DRIVER" { ... } in the host, in its class or in its pool`)
		return Power{}
	}
	pw := newPower(p.file, driver, at, subj)
	if p.lenient {
		pw.lenient = &lenience{keys: make(map[string]bool)}
	}
	of := ""
	for _, b := range blocks {
		if len(b.Labels) > 0 {
			of = b.Labels[0]
		}
		if of == driver {
			pw.add(b.Body, b.owner+": "+plainhcl.Subject("power", driver))
		}
	}
	controller, problems := pw.verify(p.check)
	p.problems = append(p.problems, problems...)
	p.warnings = append(p.warnings, pw.warnings()...)
	if pw.lenient != nil {
		p.warnings = append(p.warnings, pw.lenient.warnings...)
		pw.lenient = nil
	}
	if controller == "" {
		return pw
	}
	if first, found := p.controllers[controller]; found {
		p.reject(plainhcl.Line(at.TypeRange), subj, "power", fmt.Sprintf("host %q on line %d has the same power controller (%s)", first.host, first.line, controller),
			"two hosts with one controller would switch each other off; correct the address")
	} else {
		p.controllers[controller] = place{host.Labels[0], plainhcl.Line(host.TypeRange)}
	}
	return pw
}

// given returns the attributes of a block as texts.
func (p *parser) given(body *hclsyntax.Body, subj string) map[string]setting.Given {
	given, problems := plainhcl.Given(body, p.file, subj)
	p.problems = append(p.problems, problems...)
	return given
}
