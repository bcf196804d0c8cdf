package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Daemon is a process of the control machine.
type Daemon struct {
	Name string
	Log  string // file with what it printed

	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// run starts a program in the lab. A log of an earlier one of the same name is
// continued.
func (l *Lab) run(name string, env []string, program string, args ...string) (*Daemon, error) {
	d := &Daemon{Name: name, Log: filepath.Join(l.config.Dir, "logs", name+".log"), done: make(chan struct{})}
	output, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer output.Close()
	d.cmd = exec.Command(program, args...)
	d.cmd.Dir, d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = l.config.Dir, env, output, output
	// A terminal's Ctrl-C is for this process, which then stops things in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room == nil {
		return nil, fmt.Errorf("lab: start %s: the lab is closed", name)
	}
	if err := l.room.start(d.cmd); err != nil {
		return nil, fmt.Errorf("lab: start %s: %w", name, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	l.daemons = append(l.daemons, d)
	return d, nil
}

// PID is the process's number, as seen from outside of the lab.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Done is closed when the process has ended. Err then says how.
func (d *Daemon) Done() <-chan struct{} { return d.done }

// Err is nil while the process runs and when it ended with exit status 0.
func (d *Daemon) Err() error {
	select {
	case <-d.done:
		return d.err
	default:
		return nil
	}
}

// Signal sends a signal to the process, if it still runs: SIGSTOP makes of a
// BMC one that does not answer.
func (d *Daemon) Signal(s syscall.Signal) error {
	if err := d.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s: send %v: %w", d.Name, s, err)
	}
	return nil
}

// Kill is SIGKILL, and returns when the process is gone.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill() // fails only when it is gone already
	<-d.done
}

// stop is SIGTERM, and SIGKILL after the grace.
func (d *Daemon) stop(grace time.Duration) {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(grace):
		d.Kill()
	}
}
