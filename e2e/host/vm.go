package main

import (
	"bufio"
	"errors"
	"fmt"
	"log"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// chassis is a powered-on machine. Off is not a state of it: the process ends.
type chassis struct {
	config  string // the host's configuration file
	console *os.File
	init    *exec.Cmd  // process 1 of the operating system
	died    chan error // receives once for each init that was started
}

// runVM is the machine from power-on to power-off. It ends when the operating
// system has shut itself down, when the BMC cuts the power, and when the BMC
// is gone: a machine that its BMC no longer knows would run for ever.
func runVM(serial, configPath string) error {
	// Whatever the BMC left open would be passed on to all that runs here; its
	// UDP socket among that would keep a restarted BMC from binding.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	c, err := readConfig(configPath)
	if err != nil {
		return err
	}
	console, err := os.OpenFile(c.Console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("console of %s: %w", c.Name, err)
	}
	defer console.Close()
	log.SetOutput(console)
	log.SetPrefix(c.Name + " chassis: ")
	log.SetFlags(log.Ltime | log.Lmicroseconds | log.Lmsgprefix)

	bmc, err := net.DialTimeout("tcp", serial, 5*time.Second)
	if err != nil {
		return fmt.Errorf("serial channel of the BMC of %s: %w", c.Name, err)
	}
	defer bmc.Close()
	if _, err := bmc.Write(hello); err != nil {
		return fmt.Errorf("serial channel of the BMC of %s: %w", c.Name, err)
	}
	commands := make(chan byte)
	go func() {
		defer close(commands)
		r := bufio.NewReader(bmc)
		for {
			cmd, err := readCommand(r)
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					log.Printf("the BMC is gone: %v", err)
				}
				return
			}
			commands <- cmd
		}
	}()

	m := &chassis{config: configPath, console: console}
	return m.run(commands)
}

// run boots the machine and obeys its BMC until the power is off.
func (m *chassis) run(commands <-chan byte) error {
	cut := make(chan os.Signal, 1)
	signal.Notify(cut, syscall.SIGTERM, syscall.SIGINT)
	if err := m.boot(); err != nil {
		return err
	}
	for {
		select {
		case err := <-m.died:
			log.Printf("off: the operating system ended: %v", err)
			return nil
		case s := <-cut:
			log.Printf("off: %v", s)
			return m.cutPower()
		case cmd, ok := <-commands:
			switch {
			case !ok || cmd == cmdPowerOff:
				log.Print("off: power cut")
				return m.cutPower()
			case cmd == cmdShutdown:
				log.Print("shutdown requested")
				if err := m.init.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
					return fmt.Errorf("ask the operating system to shut down: %w", err)
				}
			case cmd == cmdReset:
				log.Print("reset")
				if err := m.cutPower(); err != nil {
					return err
				}
				if err := m.boot(); err != nil {
					return err
				}
			}
		}
	}
}

// boot starts the operating system.
func (m *chassis) boot() error {
	log.Print("power on")
	cmd := exec.Command("/proc/self/exe", "init", "--config", m.config)
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL, // the BMC kills a chassis that is slow to go off
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the operating system in its own PID namespace (this needs root): %w", err)
	}
	died := make(chan error, 1)
	go func() { died <- cmd.Wait() }()
	m.init, m.died = cmd, died
	return nil
}

// cutPower takes the power from everything that runs, and returns when
// nothing does.
func (m *chassis) cutPower() error {
	if err := m.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cut the power: %w", err)
	}
	<-m.died
	return nil
}
