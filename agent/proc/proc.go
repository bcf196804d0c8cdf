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
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
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
	// Err is why an empty Alloc does not prove that there is no allocation.
	Err error
}

// Table answers for the processes of one /proc. It is safe for concurrent
// use. Reading /proc can block behind a process that the kernel holds, so
// callers must be able to wait.
type Table struct {
	root string

	mu   sync.Mutex
	seen map[int]known // processes that were found to have an allocation
}

type known struct {
	started string // start time as the kernel counts it; a PID is used again
	owner   Owner
}

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
	if ok && (err != nil || before.started == stat.started) {
		return before.owner
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("process %d is not in %s: it just ended, or it is of another PID namespace", pid, t.root)
		}
		return Owner{Err: err}
	}
	owner := Owner{Comm: stat.comm}
	owner.Alloc, owner.Task, owner.Err = t.alloc(pid, stat)
	if owner.Alloc != "" {
		t.remember(pid, known{stat.started, owner})
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

// alloc looks for the allocation of a process.
func (t *Table) alloc(pid int, stat stat) (alloc, task string, err error) {
	if group, err := t.read(pid, "cgroup", maxSmallFile); err == nil {
		if alloc, task, ok := parseCgroup(string(group)); ok {
			return alloc, task, nil
		}
	}
	environ, err := t.read(pid, "environ", maxEnviron)
	if err != nil {
		return "", "", fmt.Errorf("environment of process %d: %w (the agent runs as root to read it)", pid, err)
	}
	if alloc, task, ok := parseEnviron(environ); ok {
		return alloc, task, nil
	}
	alloc, task = t.inherited(stat.parent)
	return alloc, task, nil
}

// inherited looks for an allocation in the environments of a process and its
// ancestors. It ends at one that ended meanwhile, as init has its children
// now, and at one of another user, as those above it are too.
func (t *Table) inherited(pid int) (alloc, task string) {
	for range maxAncestors {
		if pid <= 1 {
			break
		}
		environ, err := t.read(pid, "environ", maxEnviron)
		if err != nil {
			break
		}
		if alloc, task, ok := parseEnviron(environ); ok {
			return alloc, task
		}
		stat, err := t.stat(pid)
		if err != nil {
			break
		}
		pid = stat.parent
	}
	return "", ""
}

// read reads a file of a process.
func (t *Table) read(pid int, name string, most int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(t.root, strconv.Itoa(pid), name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, most))
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
func parseEnviron(environ []byte) (alloc, task string, ok bool) {
	for len(environ) > 0 {
		variable, rest, whole := bytes.Cut(environ, []byte{0})
		if !whole {
			break // cut off
		}
		environ = rest
		switch name, value, _ := bytes.Cut(variable, []byte{'='}); string(name) {
		case "NOMAD_ALLOC_ID":
			if allocID.Match(value) {
				alloc = string(value)
			}
		case "NOMAD_TASK_NAME":
			task = printable(string(value))
		}
	}
	if alloc == "" {
		return "", "", false
	}
	return alloc, task, true
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
