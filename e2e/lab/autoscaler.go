package lab

import (
	"errors"
	"time"
)

// autoscalerName is the name of the autoscaler's process and log.
const autoscalerName = "nomad-autoscaler"

// StartAutoscaler starts the real Nomad Autoscaler on the control machine with
// a configuration file or folder and a folder of plugins. Where Nomad and
// Consul are and the BMCs' password it gets from its environment; see
// [Lab.Env]. There can be one at a time.
func (l *Lab) StartAutoscaler(config, plugins string) (*Daemon, error) {
	if l.autoscaler() != nil {
		return nil, errors.New("lab: the autoscaler is running already")
	}
	return l.run(autoscalerName, l.Env(), l.tools.Autoscaler, "agent", "-config", config, "-plugin-dir", plugins)
}

// KillAutoscaler kills the autoscaler as a crash would: its plugins have to
// notice by themselves.
func (l *Lab) KillAutoscaler() error {
	d := l.autoscaler()
	if d == nil {
		return errors.New("lab: the autoscaler is not running")
	}
	d.Kill()
	return nil
}

// StopAutoscaler stops the autoscaler in order.
func (l *Lab) StopAutoscaler() error {
	d := l.autoscaler()
	if d == nil {
		return errors.New("lab: the autoscaler is not running")
	}
	d.stop(30 * time.Second)
	return nil
}

// autoscaler is the one that runs, or nil.
func (l *Lab) autoscaler() *Daemon {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.daemons {
		select {
		case <-d.Done():
		default:
			if d.Name == autoscalerName {
				return d
			}
		}
	}
	return nil
}
