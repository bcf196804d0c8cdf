package wol

import (
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
)

func TestAudit(t *testing.T) {
	for _, tt := range []struct {
		config Config
		level  power.Level
		what   string
	}{
		{Config{Broadcast: "127.255.255.255"}, power.Good, "goes to 127.255.255.255:9"},
		{Config{Interface: "nosuch0"}, power.Wrong, "cannot leave interface nosuch0"},
	} {
		c := tt.config
		c.MAC, c.Host = "0c:42:a1:00:07:01", "a"
		c.State, c.OffSoft = []string{"/bin/true"}, []string{"/bin/true"}
		d, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		found := d.Audit(t.Context())
		last := found[len(found)-1]
		if len(found) != 2 || last.Level != tt.level || !strings.Contains(last.What, tt.what) {
			t.Errorf("got %+v, want %s: %s", found, tt.level, tt.what)
		}
	}
}
