package queuetest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a real server that a test started.
type Process struct {
	t     testing.TB
	cmd   *exec.Cmd
	ended chan struct{}
	log   *buffer
	spec  Spec
}

// Spec says how to start a server.
type Spec struct {
	Args []string // the program first; see [Program]
	Env  []string // over that of the test
	User string   // who runs it where the test is root; empty is who runs the test
	// Ready is asked until it gives no error.
	Ready func() error
	// Stop is what ends it. Default SIGTERM. It is killed if it takes long.
	Stop syscall.Signal
}

const (
	startTime = 90 * time.Second // a slow start on a busy machine
	stopTime  = 20 * time.Second
)

// Start runs a server until the test ends.
func Start(t testing.TB, spec Spec) *Process {
	t.Helper()
	p := &Process{t: t, spec: spec}
	t.Cleanup(p.Stop)
	p.Run()
	return p
}

// Run starts the server anew, after Stop, and returns when it is ready.
func (p *Process) Run() {
	p.t.Helper()
	p.log = new(buffer)
	p.cmd = exec.Command(p.spec.Args[0], p.spec.Args[1:]...) //nolint:noctx // it is stopped by pid
	p.cmd.Env = append(os.Environ(), p.spec.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Dir = "/"
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if p.spec.User != "" && os.Geteuid() == 0 {
		uid, gid := Account(p.t, p.spec.User)
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	p.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(p.cmd)
	var err error
	for end := time.Now().Add(startTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = p.spec.Ready(); err == nil {
			return
		}
		select {
		case <-p.ended:
			p.t.Fatalf("%s has ended:\n%s", p.spec.Args[0], p.log)
		default:
		}
	}
	p.t.Fatalf("%s is not ready within %s: %v\n%s", p.spec.Args[0], startTime, err, p.log)
}

// Stop ends the server and all that it started. It may be called twice.
func (p *Process) Stop() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	s := p.spec.Stop
	if s == 0 {
		s = syscall.SIGTERM
	}
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.ended:
	case <-time.After(stopTime):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // its process group
	<-p.ended
	p.cmd = nil
}

// Log is what the server printed.
func (p *Process) Log() string { return p.log.String() }

// Program finds a program, or ends the test with how to get it.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not there: run e2e/tools/packages.sh test", names[0])
	return ""
}

// Account is the number of a user and of its group.
func Account(t testing.TB, name string) (uid, gid uint32) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatalf("%v: run e2e/tools/packages.sh test", err)
	}
	n, err1 := strconv.ParseUint(u.Uid, 10, 32)
	g, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("user %s has no numbers: %+v", name, u)
	}
	return uint32(n), uint32(g)
}

// Dir is a directory of its own for a server that runs as a user.
func Dir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "queuetest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if name != "" && os.Geteuid() == 0 {
		uid, gid := Account(t, name)
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Host is the loopback address of this test's process. Tests of other packages
// run beside it, and have others, so that a port that was free stays so.
func Host() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&0x1f, pid>>8&0xff, pid&0xff|1)
}

// FreePort is a port of [Host] that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", Host()+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// Loopback is the address of a port of [Host].
func Loopback(port int) string { return fmt.Sprintf("%s:%d", Host(), port) }

// Listening is a Spec's Ready for servers that are ready when they listen.
func Listening(addr string) func() error {
	return func() error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
}

// buffer is a log that is written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
