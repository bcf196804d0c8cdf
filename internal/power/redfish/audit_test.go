package redfish_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/powertest/loopback"
	"github.com/gpupool/gpupool/internal/power/redfish"
	"github.com/gpupool/gpupool/internal/power/redfish/redfishtest"
)

func TestAudit(t *testing.T) {
	type want struct {
		level power.Level
		what  string
	}
	clock := want{power.Good, "the BMC is"}
	tomorrow := want{power.Warning, "TLS 1.3, good until"} // as certificates of tests are
	for _, tt := range []struct {
		name    string
		options redfishtest.Options
		change  func(*redfish.Config)
		service func(*redfishtest.Service)
		want    map[string]want
	}{
		{
			name: "all is well", service: func(s *redfishtest.Service) { s.LockAfter(5) },
			change: func(c *redfish.Config) { c.Auth = "session" },
			want: map[string]want{
				"certificate": tomorrow, "clock": clock,
				"account lock": {power.Good, "after 5 failed logins, for 5m0s"},
			},
		},
		{
			name: "unverified, soon out of date, and quick to lock", service: func(s *redfishtest.Service) { s.LockAfter(1) },
			options: redfishtest.Options{Certificate: loopback.Expired},
			change:  func(c *redfish.Config) { c.CAFile, c.InsecureSkipVerify = "", true },
			want: map[string]want{
				"certificate": {power.Warning, "expired on"}, "clock": clock,
				"account lock": {power.Warning, "after 1 failed logins"},
			},
		},
		{
			name: "a wrong clock and no account service",
			service: func(s *redfishtest.Service) {
				s.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
					w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
					if strings.HasSuffix(r.URL.Path, "AccountService") {
						redfishtest.Fail(w, http.StatusNotFound, "Base.1.18.ResourceMissingAtURI", "It is not there.")
						return true
					}
					return false
				})
			},
			want: map[string]want{"certificate": tomorrow, "clock": {power.Warning, "the BMC is -1h0m"}},
		},
		{
			name: "it is starting", service: func(s *redfishtest.Service) {
				s.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				})
			},
			want: map[string]want{},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := redfishtest.Start(t, tt.options)
			if tt.service != nil {
				tt.service(s)
			}
			c := config(s)
			if tt.change != nil {
				tt.change(&c)
			}
			d, err := redfish.New(c)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			found := make(map[string]power.Finding)
			unverified := false
			for _, f := range d.Audit(ctx) {
				if f.Level == power.Wrong {
					unverified = strings.Contains(f.What, "not verified")
					continue
				}
				found[f.About] = f
			}
			if unverified != c.InsecureSkipVerify {
				t.Errorf("that the certificate is not verified is told: %t", unverified)
			}
			for about, w := range tt.want {
				if f := found[about]; f.Level != w.level || !strings.Contains(f.What, w.what) || f.Level != power.Good && f.Mend == "" {
					t.Errorf("%s: got %+v, want %s: %s", about, f, w.level, w.what)
				}
			}
			if len(found) != len(tt.want) {
				t.Errorf("got %+v", found)
			}
			if n := s.Sessions(); n != 0 {
				t.Errorf("%d sessions were left open", n)
			}
		})
	}
}
