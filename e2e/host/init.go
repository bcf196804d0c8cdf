package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	restartDelay = time.Second     // before a service that died is started again
	killGrace    = 2 * time.Second // from SIGTERM to the end for what is no service
)

// runInit is the operating system: process 1 of the chassis. It brings the
// network up, keeps the services running, and shuts down in order on SIGTERM.
func runInit(configPath string) error {
	c, err := readConfig(configPath)
	if err != nil {
		return err
	}
	log.SetPrefix(c.Name + " init: ")
	log.SetFlags(log.Ltime | log.Lmicroseconds | log.Lmsgprefix)
	if os.Getpid() != 1 {
		return fmt.Errorf("init is process %d, not 1: it is for `host vm` to start", os.Getpid())
	}
	if err := ownProc(); err != nil {
		return err
	}
	shutdown := make(chan os.Signal, 1)
	signal.Notify(shutdown, syscall.SIGTERM)

	select {
	case <-time.After(c.boot):
	case <-shutdown:
		// Nothing runs yet that could be told.
		log.Print("shutdown during the self-test")
		return nil
	}
	link, err := bringUp(c.Network)
	if err != nil {
		return fmt.Errorf("network of %s: %w", c.Name, err)
	}
	defer link.Close()

	k := newKeeper(c)
	for i := range c.Service {
		k.start(&c.Service[i])
	}
	<-shutdown
	log.Print("shutting down")
	k.stopAll(c.Service)
	log.Print("down")
	return nil
}

// ownProc gives a new PID namespace a /proc that shows it, seen by nobody else.
func ownProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// keeper keeps services running and reaps whatever dies, as process 1 must.
type keeper struct {
	env []string

	mu       sync.Mutex
	stopping bool
	running  map[int]*running // by PID
}

type running struct {
	*service
	pid  int
	gone chan struct{} // closed when the process was reaped
}

func newKeeper(c *config) *keeper {
	k := &keeper{running: map[int]*running{}}
	for name, value := range c.Env {
		k.env = append(k.env, name+"="+value)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			k.reap()
		}
	}()
	return k
}

// start starts a service, or tries again later. A shutdown ends the trying.
func (k *keeper) start(s *service) {
	// Under the lock, so that the reaper cannot meet a process before it is known.
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopping {
		return
	}
	r, err := k.exec(s)
	if err != nil {
		log.Printf("%s: %v; again in %v", s.Name, err, restartDelay)
		time.AfterFunc(restartDelay, func() { k.start(s) })
		return
	}
	log.Printf("%s: started", s.Name)
	k.running[r.pid] = r
}

func (k *keeper) exec(s *service) (*running, error) {
	output, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = k.env, output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := &running{service: s, pid: cmd.Process.Pid, gone: make(chan struct{})}
	return r, cmd.Process.Release()
}

// reap collects every process that has died and restarts those that should
// not have.
func (k *keeper) reap() {
	for {
		var status syscall.WaitStatus
		k.mu.Lock()
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		r := k.running[pid]
		delete(k.running, pid)
		stopping := k.stopping
		k.mu.Unlock()
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || pid <= 0:
			return
		case r == nil:
			continue // an orphan
		}
		close(r.gone)
		if status.Signaled() {
			log.Printf("%s: ended: %v", r.Name, status.Signal())
		} else {
			log.Printf("%s: ended: exit status %d", r.Name, status.ExitStatus())
		}
		if !stopping {
			time.AfterFunc(restartDelay, func() { k.start(r.service) })
		}
	}
}

// stopAll stops the services, the last one first, and then everything else.
func (k *keeper) stopAll(services []service) {
	k.mu.Lock()
	k.stopping = true
	k.mu.Unlock()
	for i := len(services) - 1; i >= 0; i-- {
		if r := k.find(&services[i]); r != nil {
			stop(r)
		}
	}
	// What the services left behind: Nomad's executors and their tasks. Those
	// that stay longer end with process 1.
	if syscall.Kill(-1, syscall.SIGTERM) != nil {
		return
	}
	for deadline := time.Now().Add(killGrace); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if syscall.Kill(-1, 0) == syscall.ESRCH {
			return
		}
	}
}

func (k *keeper) find(s *service) *running {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.running {
		if r.service == s {
			return r
		}
	}
	return nil
}

// stop stops one service and returns when it is gone.
func stop(r *running) {
	_ = syscall.Kill(r.pid, syscall.SIGTERM)
	select {
	case <-r.gone:
	case <-time.After(r.stop):
		log.Printf("%s: still there after %v: killed", r.Name, r.stop)
		_ = syscall.Kill(r.pid, syscall.SIGKILL)
		<-r.gone
	}
}
