package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// room is the PID namespace, with its own /proc, in which a lab runs. The
// kernel empties it when its process 1 ends, and that process ends when its
// standard input does: on close, or when this process dies, however it dies.
type room struct {
	first  *exec.Cmd
	door   io.Closer // standard input of first
	starts chan start
}

// start asks for a process to be started in the room.
type start struct {
	cmd *exec.Cmd
	err chan error
}

// permitted says what is missing for a lab on this machine.
func permitted() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("lab: hosts are PID namespaces, and to make one takes root: run this with sudo, or as root"))
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		errs = append(errs, fmt.Errorf("lab: hosts need a network interface each: %w (modprobe tun)", err))
	}
	if _, err := exec.LookPath("go"); err != nil {
		errs = append(errs, fmt.Errorf("lab: %w (sudo sets a PATH of its own: sudo env PATH=$PATH ...)", err))
	}
	for _, program := range []string{"ipmi_sim", "ipmitool"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("lab: %w (e2e/tools/packages.sh installs it)", err))
		}
	}
	return errors.Join(errs...)
}

func openRoom(host, dir string) (*room, error) {
	first := exec.Command(host, "room", "--dir", dir)
	first.Env = []string{} // no mark: it is the one to look for others
	first.Stderr = os.Stderr
	first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setpgid: true}
	door, err := first.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("lab: room: %w", err)
	}
	answer, err := first.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("lab: room: %w", err)
	}
	if err := first.Start(); err != nil {
		return nil, fmt.Errorf("lab: make a PID namespace: %w (in a container, it must be privileged)", err)
	}
	r := &room{first: first, door: door, starts: make(chan start)}
	if line, err := bufio.NewReader(answer).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, errors.Join(fmt.Errorf("lab: the room did not open: %q, %w", line, err), r.close())
	}
	entered := make(chan error)
	go r.serve(entered)
	if err := <-entered; err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// serve starts processes in the room. It does so from a thread of its own that
// has entered the room, and that dies with this goroutine because it can never
// be used for anything else again.
func (r *room) serve(entered chan<- error) {
	runtime.LockOSThread()
	entered <- r.enter()
	for s := range r.starts {
		s.err <- s.cmd.Start()
	}
}

// enter moves the thread's file system view, and its children to come, into
// the room.
func (r *room) enter() error {
	// A thread that shares its file system attributes cannot change mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("lab: enter the room: %w", err)
	}
	for _, ns := range []struct {
		name string
		kind int
	}{{"pid", unix.CLONE_NEWPID}, {"mnt", unix.CLONE_NEWNS}} {
		path := fmt.Sprintf("/proc/%d/ns/%s", r.first.Process.Pid, ns.name)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("lab: enter the room: %s: %w", path, err)
		}
		err = unix.Setns(fd, ns.kind)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("lab: enter the room: %s namespace: %w", ns.name, err)
		}
	}
	return nil
}

// start starts cmd in the room.
func (r *room) start(cmd *exec.Cmd) error {
	s := start{cmd, make(chan error)}
	r.starts <- s
	return <-s.err
}

// closeTimeout is generous: on a busy machine the kernel takes some seconds for
// the dozens of processes that Nomad's tasks are.
const closeTimeout = 30 * time.Second

// close empties the room and returns when it is gone.
func (r *room) close() error {
	close(r.starts)
	r.door.Close()
	late := time.AfterFunc(closeTimeout, func() { _ = r.first.Process.Kill() })
	defer late.Stop()
	if err := r.first.Wait(); err != nil {
		return fmt.Errorf("lab: the room did not close in order: %w", err)
	}
	return nil
}
