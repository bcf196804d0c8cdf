package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/nomad"
)

// What is said of what tasks ask for and what clients give.
func TestKillFindings(t *testing.T) {
	task := func(name string, d time.Duration) nomad.KillTimeout {
		return nomad.KillTimeout{Namespace: "default", Job: name, Group: "g", Task: "t", Timeout: d}
	}
	ml := task("train", 2*time.Minute)
	ml.Namespace = "ml"
	client := func(host string, d time.Duration) killClient { return killClient{host: host, most: d} }
	away := func(host string) killClient { return killClient{host: host, err: errors.New("connection refused")} }
	const cut = `task "t" of group "g" of job "workers" asks for 10m0s, and the Nomad client of `
	const mend = `: what it has not finished by then is killed; set client { max_kill_timeout = "10m0s" } there, and restart that client`

	for name, test := range map[string]struct {
		asked   []nomad.KillTimeout
		clients []killClient
		want    []string
	}{
		"nobody is up": {
			[]nomad.KillTimeout{task("workers", 10*time.Minute)}, nil,
			[]string{"ok no host is up whose Nomad client could be asked"},
		},
		"nobody asks": {
			nil, []killClient{client("a", time.Minute), client("b", time.Second)},
			[]string{"ok no task asks for more than the 1s that Nomad clients give: b"},
		},
		"enough, to the second": {
			[]nomad.KillTimeout{task("agent", 5*time.Second), task("workers", 10*time.Minute)},
			[]killClient{client("a", 10*time.Minute), client("b", time.Hour)},
			[]string{"ok the longest that a task asks for is 10m0s, of the 10m0s that Nomad clients give: a"},
		},
		"a second too little": {
			[]nomad.KillTimeout{task("workers", 10*time.Minute)}, []killClient{client("a", 10*time.Minute-time.Second)},
			[]string{"WRONG " + cut + "a cuts it to 9m59s" + mend},
		},
		"two limits, two tasks": {
			[]nomad.KillTimeout{ml, task("workers", 10*time.Minute)},
			[]killClient{client("a", 30*time.Second), client("b", 5*time.Minute), client("c", 30*time.Second), client("d", time.Hour)},
			[]string{
				`WRONG task "t" of group "g" of job "train" in namespace "ml" asks for 2m0s, and the Nomad client of a, c cuts it to 30s` + mend,
				"WRONG " + cut + "a, c cuts it to 30s" + mend,
				"WRONG " + cut + "b cuts it to 5m0s" + mend,
			},
		},
		"many hosts": {
			[]nomad.KillTimeout{task("workers", 10*time.Minute)},
			[]killClient{client("a", 0), client("b", 0), client("c", 0), client("d", 0), client("e", 0), client("f", 0)},
			[]string{"WRONG " + cut + "a, b, c, d and 2 more cuts it to 0s" + mend},
		},
		"not read, and it matters": {
			[]nomad.KillTimeout{task("workers", 10*time.Minute)}, []killClient{away("a"), client("b", time.Hour), away("c")},
			[]string{
				"ok the longest that a task asks for is 10m0s, of the 1h0m0s that Nomad clients give: b",
				`warning could not be read of the Nomad client of a, c: connection refused; task "t" of group "g" of job "workers" asks for 10m0s, and a client gives 30s where its max_kill_timeout is not set: see to it on these hosts`,
			},
		},
		"not read, and it hardly matters": {
			[]nomad.KillTimeout{task("web", 30*time.Second)}, []killClient{away("a")},
			[]string{"ok could not be read of the Nomad client of a: connection refused"},
		},
	} {
		var got []string
		for _, f := range killFindings(test.asked, test.clients) {
			text := f.Level.String() + " " + f.What
			if f.Mend != "" {
				text += "; " + f.Mend
			}
			got = append(got, text)
		}
		if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}
