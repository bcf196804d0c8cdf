package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/hashicorp/nomad/plugins/base"
)

func TestParseGroups(t *testing.T) {
	for name, tc := range map[string]struct {
		file string
		want string // groups as name:ID,ID; an unhealthy ID has a !
		err  string
	}{
		"empty":         {"", "", ""},
		"defaults":      {"count 2\n", "NVIDIA H100 80GB HBM3:GPU-fa4e0000-0000-4000-8000-000000000000,GPU-fa4e0001-0000-4000-8000-000000000000", ""},
		"lost":          {"count 2\ngpu0.uuid A\ngpu1.uuid B\ngpu1.lost 1", "NVIDIA H100 80GB HBM3:A,!B", ""},
		"two products":  {"# mixed\ncount 2\ngpu0.name X\ngpu1.name Y\ngpu0.uuid A\ngpu1.uuid B", "X:A Y:B", ""},
		"no driver":     {"count 2\ninit_err 9", "", ""},
		"last counts":   {"count 1\ngpu0.uuid A\ngpu0.uuid B", "NVIDIA H100 80GB HBM3:B", ""},
		"bad count":     {"count two", "", `count is "two", not a number`},
		"too many GPUs": {"count 65", "", "count is 65, not 0 to 64"},
	} {
		t.Run(name, func(t *testing.T) {
			groups, err := parseGroups(strings.NewReader(tc.file))
			if got := errText(err); got != tc.err {
				t.Fatalf("error %q, want %q", got, tc.err)
			}
			var got []string
			for _, g := range groups {
				if err := g.Validate(); err != nil {
					t.Error(err)
				}
				var ids []string
				for _, d := range g.Devices {
					id := d.ID
					if !d.Healthy {
						id = "!" + id
					}
					ids = append(ids, id)
				}
				got = append(got, g.Name+":"+strings.Join(ids, ","))
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestFingerprintFollowsTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gpus")
	write := func(state string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("count 1\ngpu0.uuid A")
	p := configured(t, file)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := p.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-stream; r == nil || !r.Devices[0].Devices[0].Healthy {
		t.Fatalf("first answer %+v, want one healthy GPU", r)
	}
	if r, err := p.Reserve([]string{"A"}); err != nil || r.Envs["NVIDIA_VISIBLE_DEVICES"] != "A" {
		t.Errorf("Reserve: %+v, %v", r, err)
	}
	write("count 1\ngpu0.uuid A\ngpu0.lost 1")
	if r := <-stream; r == nil || r.Devices[0].Devices[0].Healthy {
		t.Fatalf("after the loss %+v, want one GPU that is not healthy", r)
	}
	if _, err := p.Reserve([]string{"A"}); err == nil {
		t.Error("a lost GPU was reserved")
	}
	cancel()
	for range stream { // ends when the context does
	}
}

func configured(t *testing.T, file string) *plugin {
	t.Helper()
	var packed []byte
	if err := base.MsgPackEncode(&packed, map[string]string{"file": file}); err != nil {
		t.Fatal(err)
	}
	p := newPlugin(hclog.NewNullLogger())
	if err := p.SetConfig(&base.Config{PluginConfig: packed}); err != nil {
		t.Fatal(err)
	}
	return p
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
