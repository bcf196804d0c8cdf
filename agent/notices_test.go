package main

import (
	"io"
	"strings"
	"testing"
)

func TestNoticesThatCannotWork(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-notices", "oracle"}, `-notices: source of notices "oracle": want aws, gcp`},
		{[]string{"-notices", "aws"}, "-notices without -nomad"},
		{[]string{"-node-meta"}, "-node-meta without -nomad"},
	} {
		_, err := parse(append(c.args, "-node", "gpu-1"), environment(nil), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	c, err := parse([]string{"-notices", "aws, file:/run/leave", "-drain=false", "-node", "gpu-1"}, environment(nil), io.Discard)
	if err != nil || len(c.notices.sources) != 2 || c.notices.sources["file:/run/leave"] == nil {
		t.Errorf("%+v, %v", c.notices, err)
	}
}
