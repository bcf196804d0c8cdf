package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstancesConfig(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "nomad-token")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOMAD_TOKEN", "s3cret") // what a reference to it leads to
	for _, tt := range []struct {
		name string
		args string
		env  map[string]string
		want instancesConfig
		err  string // in the error; empty for none
	}{
		{"off without Nomad's variables", "", nil, instancesConfig{Nomad: "off", Service: "{job}-warm"}, ""},
		{"the address in Nomad's variable", "", map[string]string{"NOMAD_ADDR": "http://127.0.0.1:4646", "NOMAD_UNIX_ADDR": "unix:///x"},
			instancesConfig{Nomad: "http://127.0.0.1:4646", Service: "{job}-warm"}, ""},
		{"the socket that Nomad gives to a task", "", map[string]string{"NOMAD_UNIX_ADDR": "unix:///x/api.sock", "NOMAD_TOKEN": "s3cret"},
			instancesConfig{Nomad: "unix:///x/api.sock", Token: "env:NOMAD_TOKEN", Service: "{job}-warm"}, ""},
		{"flags win", "-nomad off", map[string]string{"NOMAD_ADDR": "http://127.0.0.1:4646"}, instancesConfig{Nomad: "off", Service: "{job}-warm"}, ""},
		{"a token in a file", "-nomad http://127.0.0.1:4646 -nomad-token file:" + secret, nil,
			instancesConfig{Nomad: "http://127.0.0.1:4646", Token: "file:" + secret, Service: "{job}-warm"}, ""},
		{"a token in clear", "-nomad-token s3cret", nil, instancesConfig{}, "-nomad-token: a credential is written in clear"},
		{"a token that is not there", "-nomad-token file:/nonexistent", nil, instancesConfig{}, "-nomad-token: credential file"},
		{"a service that any job could be", "-instance-service {job}", nil, instancesConfig{}, "a job could take any service's name"},
		{"admin for everybody", "-admin -nomad http://127.0.0.1:4646", nil, instancesConfig{}, "-admin without a bearer token"},
		{"admin of nothing", "-admin", map[string]string{"GPUPOOL_AGENT_TOKEN": "t"}, instancesConfig{}, "-admin without -nomad"},
		{"admin", "-admin -nomad http://127.0.0.1:4646", map[string]string{"GPUPOOL_AGENT_TOKEN": "t"},
			instancesConfig{Nomad: "http://127.0.0.1:4646", Admin: true, Service: "{job}-warm"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parse(append([]string{"-node", "n1"}, strings.Fields(tt.args)...), environment(tt.env), io.Discard)
			switch {
			case tt.err == "" && (err != nil || c.instances != tt.want):
				t.Errorf("parse = %+v, %v; want %+v", c.instances, err, tt.want)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "s3cret")):
				t.Errorf("error is %v, want it to say %q, and not the token", err, tt.err)
			}
		})
	}
}
