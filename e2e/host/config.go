package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2/hclsimple"
)

// config describes one host. It is read from an HCL file at every boot.
type config struct {
	Name    string            `hcl:"name"`
	Boot    string            `hcl:"boot,optional"` // how long the firmware's self-test takes
	Console string            `hcl:"console"`       // file that gets what the host prints
	Env     map[string]string `hcl:"env,optional"`  // the whole environment of the services
	Network network           `hcl:"network,block"` // the host's network interface
	Service []service         `hcl:"service,block"` // started in this order, stopped in reverse

	boot time.Duration
}

// network is the host's one network interface. It exists while the host is on.
type network struct {
	Device  string `hcl:"device"`  // at most 15 characters
	Address string `hcl:"address"` // IPv4
}

// service is a program that the operating system keeps running.
type service struct {
	Name    string   `hcl:"name,label"`
	Command []string `hcl:"command"`
	Log     string   `hcl:"log"`           // file to append its output to
	Stop    string   `hcl:"stop,optional"` // how long after SIGTERM it is killed; 30 s

	stop time.Duration
}

func readConfig(path string) (*config, error) {
	var c config
	if err := hclsimple.DecodeFile(path, nil, &c); err != nil {
		return nil, err
	}
	var errs []error
	duration := func(key, s string, absent time.Duration) time.Duration {
		if s == "" {
			return absent
		}
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			errs = append(errs, fmt.Errorf("%s: %s is %q, not a duration such as 2s", path, key, s))
		}
		return d
	}
	c.boot = duration("boot", c.Boot, 0)
	for i := range c.Service {
		s := &c.Service[i]
		s.stop = duration("stop of service "+s.Name, s.Stop, 30*time.Second)
		if len(s.Command) == 0 {
			errs = append(errs, fmt.Errorf("%s: service %s has no command", path, s.Name))
		}
	}
	return &c, errors.Join(errs...)
}
