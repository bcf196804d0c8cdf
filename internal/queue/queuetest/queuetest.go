// Package queuetest is the suite that every source of package queue passes.
// It holds a source to the contract of [queue.Source] against a server that
// the source's own tests bring, over a wire that can be broken.
package queuetest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/setting"
)

// Rig is a kind of source with a server to hold it to the contract with.
type Rig struct {
	Kind queue.Kind
	// Server is a server that runs; the cases share it, each with a queue of
	// its own.
	Server Server
	// Secret is the right credential and WrongSecret the wrong one. Neither
	// may show in an error.
	Secret, WrongSecret string
	// Frames are parts of function names that are in the stack of each
	// goroutine that the source starts.
	Frames []string
	// Lacks names the cases of the suite that this kind cannot have, each
	// with the reason.
	Lacks map[string]string
}

// Server is a queue server under test, seen from behind.
type Server struct {
	// Addr is host:port.
	Addr string
	// Settings are those of a source for the queue of a name at an address.
	// password is a reference to the credential.
	Settings func(addr, queue, password string) map[string]string
	// Put makes a queue that holds so many items, of which some were begun
	// and none was done.
	Put func(t *testing.T, queue string, items, begun int)
	// SettingsTLS adds what makes Settings speak TLS.
	SettingsTLS func(map[string]string) map[string]string
	// Certs are those that the server itself speaks TLS with, at Addr, where
	// the protocol does not begin with TLS. Otherwise the wire speaks it.
	Certs *Certs
	// Rewrite changes in place what the server answers, where its answers
	// tell the source to go to the server's address and not the wire's.
	Rewrite func(answer []byte, wire string)
	// Restart stops the server and starts it anew, at the same address.
	Restart func()
}

// Run holds a source to the contract. Each case is a subtest, so that the
// names of the subtests are the matrix of kind and case; cases that the rig
// lacks are listed in the log of t.
func Run(t *testing.T, rig Rig) {
	lacks := maps.Clone(rig.Lacks)
	for _, c := range cases {
		if why, ok := lacks[c.name]; ok {
			delete(lacks, c.name)
			t.Logf("%q does not apply: %s", c.name, why)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if !c.alone { // parallel cases wait until the others are done
				t.Parallel()
			}
			c.run(newBench(t, rig))
		})
	}
	if len(lacks) > 0 {
		t.Errorf("the rig lacks cases that the suite does not have: %s", strings.Join(slices.Sorted(maps.Keys(lacks)), ", "))
	}
}

// contract is one sentence of the contract.
type contract struct {
	name  string
	run   func(*bench)
	alone bool // must not run beside other cases
}

var cases = []contract{
	{name: "counts", run: counts},
	{name: "empty", run: empty},
	{name: "running", run: running},
	{name: "missing queue", run: missing},
	{name: "credential", run: credential},
	{name: "deadline passed before", run: deadlinePassed},
	{name: "cancelled", run: cancelled},
	{name: "nothing there", run: nothingThere},
	{name: "hung", run: hung},
	{name: "half-open", run: halfOpen},
	{name: "drips", run: drips},
	{name: "hostile", run: hostile, alone: true},
	{name: "connection lost", run: connectionLost},
	{name: "restarted", run: restarted, alone: true},
	{name: "closed", run: closed},
	{name: "tls", run: tlsVerified},
	{name: "no goroutine left", run: noGoroutineLeft, alone: true},
}

// Names are the names of the cases, for a Rig's Lacks.
func Names() []string {
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
	}
	return names
}

// bench is a server with a wire before it and a queue of its own.
type bench struct {
	t    *testing.T
	rig  Rig
	wire *Wire
	name string
}

func newBench(t *testing.T, rig Rig) *bench {
	_, name, _ := strings.Cut(t.Name(), "/")
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	b := &bench{t: t, rig: rig, wire: NewWire(t, rig.Server.Addr), name: "q-" + name}
	b.wire.rewrite = rig.Server.Rewrite
	return b
}

// password writes a credential to a file and refers to it.
func (b *bench) password(secret string) string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return "file:" + path
}

// open makes a source over the wire, as a file with settings would.
func (b *bench) open() queue.Source {
	b.t.Helper()
	return b.openWith(b.rig.Server.Settings(b.wire.Addr(), b.name, b.password(b.rig.Secret)))
}

func (b *bench) openWith(settings map[string]string) queue.Source {
	b.t.Helper()
	given := make(map[string]setting.Given)
	for k, v := range settings {
		given[k] = setting.Given{Text: v}
	}
	r := setting.NewReader(setting.Place{Subject: "source"}, given)
	open := b.rig.Kind.Declare(r)
	r.Finish(nil)
	if err := r.Problems().Err(); err != nil {
		b.t.Fatal(err)
	}
	s, err := open()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.t.Errorf("close: %v", err)
		}
		b.spills("printing the source", fmt.Sprintf("%v %+v %#v", s, s, s))
	})
	return s
}

// spills is what must be true of everything that may be printed.
func (b *bench) spills(what, text string) {
	b.t.Helper()
	for _, secret := range []string{b.rig.Secret, b.rig.WrongSecret} {
		if secret != "" && strings.Contains(text, secret) {
			b.t.Errorf("%s spills the credential: %s", what, strings.ReplaceAll(text, secret, "*****"))
		}
	}
}

// check is what must be true of every error.
func (b *bench) check(err error) {
	b.t.Helper()
	if err == nil {
		return
	}
	b.spills("an error", fmt.Sprintf("%v %+v %#v", err, err, err))
	if text := err.Error(); strings.Contains(text, "\n") || len(text) > 1000 {
		b.t.Errorf("the error is not one short line: %q", text)
	}
	if classOf(err) == nil {
		b.t.Errorf("the error has no class: %v", err)
	}
}

const (
	// plenty is a deadline that a server in good health meets on a busy
	// machine.
	plenty = 90 * time.Second
	// short is the deadline of calls that are expected to run into it.
	short = 700 * time.Millisecond
	// grace is how long after its deadline a call is given up. It tells a
	// source that obeys from one that hangs, and is no figure of speed.
	grace = 10 * time.Second
)
