// Package proc finds out which Nomad allocation a process belongs to, from
// what the kernel says of it under /proc.
//
// Three things are looked at, the surest first: the control group, whose name
// Nomad's exec, raw_exec and java drivers build from the allocation's ID (Nomad
// client/lib/cgroupslib; only root can forge it); NOMAD_ALLOC_ID in the
// environment that the process was started with, which every driver sets; and
// the environments of its ancestors, for programs that clear or overwrite
// their own. The latter two can be forged by whoever starts the process,
// who thereby only gives up the protection of a process of no allocation.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	maxEnviron   = 8 << 20 // the kernel allows 6 MiB of arguments and environment
	maxSmallFile = 64 << 10
	maxAncestors = 32
	maxRemember  = 4096
)

// Owner is whom a process belongs to.
type Owner struct {
	Comm  string // the kernel's name for the process, printable, at most 15 bytes
	Alloc string // ID of the Nomad allocation; empty if there is none
	Task  string // name of the allocation's task, where it is known
	// Devices are the UUIDs of the GPUs and MIG devices that the allocation was
	// given, as its NVIDIA_VISIBLE_DEVICES says, which Nomad's device plugin
	// sets. Nil if that is not known.
	Devices []string
	// Err is why an empty Alloc does not prove that there is no allocation.
	Err error
}

// Foreign says that the process has an allocation, and that this was given
// other GPUs than the one with this UUID, or other MIG devices than mig if that
// is not empty. It is false wherever that is not certain.
func (o Owner) Foreign(gpu, mig string) bool {
	if o.Alloc == "" || len(o.Devices) == 0 {
		return false
	}
	for _, d := range o.Devices {
		switch {
		case d == gpu, d == mig:
			return false
		case strings.HasPrefix(d, "MIG-") && mig == "": // perhaps a part of it
			return false
		case strings.Contains(d, gpu): // MIG-GPU-UUID/1/0, as drivers before R470 name parts
			return false
		}
	}
	return true
}

// Table answers for the processes of one /proc. It is safe for concurrent
// use. Reading /proc can block behind a process that the kernel holds, so
// callers must be able to wait.
type Table struct {
	root string

	mu   sync.Mutex
	seen map[int]known
}

// known is what was found out about a process.
type known struct {
	started string // start time as the kernel counts it; a PID is used again
	owner   Owner
	until   time.Time // how long it is good; zero for as long as the process lives
}

// nobodyFor is how long a process of no allocation is not looked at again.
// Nomad's executors put a process where it belongs before it can reach a GPU,
// so this only spares the reading of environments.
const nobodyFor = 10 * time.Second

// New makes a table of the processes under root, which is /proc except in
// tests. It must be the /proc of the PID namespace that the GPU driver counts
// in, which is the host's.
func New(root string) *Table {
	return &Table{root: root, seen: map[int]known{}}
}

// Owner finds the owner of a process. A process that was seen with its
// allocation keeps it while it exits.
func (t *Table) Owner(pid int) Owner {
	stat, err := t.stat(pid)
	before, ok := t.recall(pid)
	if ok && before.owner.Alloc != "" && (err != nil || before.started == stat.started) {
		return before.owner
	}
	if ok && err == nil && before.started == stat.started && time.Now().Before(before.until) {
		return before.owner
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("process %d is not in %s: it just ended, or it is of another PID namespace", pid, t.root)
		}
		return Owner{Err: err}
	}
	owner := t.find(pid, stat)
	owner.Comm = stat.comm
	switch {
	case owner.Alloc != "":
		t.remember(pid, known{started: stat.started, owner: owner})
	case owner.Err == nil:
		t.remember(pid, known{stat.started, owner, time.Now().Add(nobodyFor)})
	}
	return owner
}

func (t *Table) recall(pid int) (known, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.seen[pid]
	return k, ok
}

func (t *Table) remember(pid int, k known) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) >= maxRemember {
		clear(t.seen) // found again when asked for
	}
	t.seen[pid] = k
}

// find looks for the allocation of a process.
func (t *Table) find(pid int, stat stat) Owner {
	environ, err := t.read(pid, "environ", maxEnviron)
	told, found := parseEnviron(environ)
	if group, err := t.read(pid, "cgroup", maxSmallFile); err == nil {
		if alloc, task, ok := parseCgroup(string(group)); ok {
			owner := Owner{Alloc: alloc, Task: task}
			if told.Alloc == alloc { // else somebody overwrote it
				owner.Devices = told.Devices
			}
			return owner
		}
	}
	switch {
	case err != nil:
		return Owner{Err: fmt.Errorf("environment of process %d: %w (the agent runs as root to read it)", pid, err)}
	case found:
		return told
	}
	return t.inherited(stat.parent)
}

// inherited looks for an allocation in the environments of a process and its
// ancestors. It ends at one that ended meanwhile, as init has its children
// now, and at one of another user, as those above it are too.
func (t *Table) inherited(pid int) Owner {
	for range maxAncestors {
		if pid <= 1 {
			break
		}
		environ, err := t.read(pid, "environ", maxEnviron)
		if err != nil {
			break
		}
		if owner, ok := parseEnviron(environ); ok {
			return owner
		}
		stat, err := t.stat(pid)
		if err != nil {
			break
		}
		pid = stat.parent
	}
	return Owner{}
}

// read reads a file of a process. It makes the system calls itself: package os
// would make three times as many to find out that a file of the kernel cannot be
// waited for.
func (t *Table) read(pid int, name string, most int) ([]byte, error) {
	path := t.root + "/" + strconv.Itoa(pid) + "/" + name
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // only read
	text := make([]byte, 0, 512)
	for len(text) < most {
		text = slices.Grow(text, 512)
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, text[len(text):min(cap(text), most)]) })
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			break
		}
		text = text[:len(text)+n]
	}
	return text, nil
}

// ignoringEINTR makes a system call until no signal breaks it off.
func ignoringEINTR(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// stat is the part of /proc/PID/stat that matters here; see proc(5).
type stat struct {
	comm    string
	parent  int
	started string
}

func (t *Table) stat(pid int) (stat, error) {
	text, err := t.read(pid, "stat", maxSmallFile)
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(string(text))
	if err != nil {
		return stat{}, fmt.Errorf("%s/%d/stat: %w", t.root, pid, err)
	}
	return s, nil
}

// parseStat reads one line of /proc/PID/stat. The name stands in parentheses
// and may itself contain blanks and parentheses.
func parseStat(line string) (stat, error) {
	from, to := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if from < 0 || to < from {
		return stat{}, errors.New("no process name in parentheses")
	}
	fields := strings.Fields(line[to+1:])
	const state, parent, started = 3, 4, 22 // as proc(5) numbers them
	if len(fields) <= started-state {
		return stat{}, fmt.Errorf("%d fields after the name", len(fields))
	}
	ppid, err := strconv.Atoi(fields[parent-state])
	if err != nil {
		return stat{}, fmt.Errorf("parent: %w", err)
	}
	return stat{printable(line[from+1 : to]), ppid, fields[started-state]}, nil
}

const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

var (
	allocID = regexp.MustCompile(`^` + uuid + `$`)
	// Control groups v2: /nomad.slice/share.slice/ALLOC.TASK.scope, or
	// reserve.slice; v1: /nomad/share/ALLOC.TASK and the like.
	group = regexp.MustCompile(`^/(?:.*/)?nomad[^/]*/(?:[^/]+/)*(` + uuid + `)\.([^/]+?)(?:\.scope)?(?:/.*)?$`)
)

// parseCgroup looks for an allocation in /proc/PID/cgroup.
func parseCgroup(text string) (alloc, task string, ok bool) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if m := group.FindStringSubmatch(fields[2]); m != nil {
			return m[1], printable(m[2]), true
		}
	}
	return "", "", false
}

// parseEnviron looks for an allocation in /proc/PID/environ: variables
// separated by NUL.
func parseEnviron(environ []byte) (owner Owner, ok bool) {
	for len(environ) > 0 {
		variable, rest, whole := bytes.Cut(environ, []byte{0})
		if !whole {
			break // cut off
		}
		environ = rest
		switch name, value, _ := bytes.Cut(variable, []byte{'='}); string(name) {
		case "NOMAD_ALLOC_ID":
			if allocID.Match(value) {
				owner.Alloc = string(value)
			}
		case "NOMAD_TASK_NAME":
			owner.Task = printable(string(value))
		case "NVIDIA_VISIBLE_DEVICES":
			owner.Devices = parseDevices(string(value))
		}
	}
	if owner.Alloc == "" {
		return Owner{}, false
	}
	return owner, true
}

// deviceID is the UUID of a GPU or a MIG device.
var deviceID = regexp.MustCompile(`^(GPU|MIG|MIG-GPU)-` + uuid + `(/[0-9]+/[0-9]+)?$`)

// parseDevices reads the value of NVIDIA_VISIBLE_DEVICES. It is nil unless all
// are UUIDs: an index changes with the boot, and "all" is no grant.
func parseDevices(value string) (ids []string) {
	const most = 64
	for id := range strings.SplitSeq(value, ",") {
		if !deviceID.MatchString(id) || len(ids) == most {
			return nil
		}
		ids = append(ids, id)
	}
	return ids
}

// printable makes a text that any process can choose fit for logs and labels.
func printable(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
