package redfish

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/power"
)

func TestCertificateThatExpires(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]struct {
		level power.Level
		what  string
	}{
		-time.Hour:           {power.Warning, "expired on 2026-03-01"},
		29 * 24 * time.Hour:  {power.Warning, "TLS 1.2, good until 2026-03-30"},
		400 * 24 * time.Hour: {power.Good, "TLS 1.2, good until 2027-04-05"},
	} {
		found := auditCertificate(&tls.ConnectionState{
			Version: tls.VersionTLS12, PeerCertificates: []*x509.Certificate{{NotAfter: now.Add(left)}},
		}, now)
		if len(found) != 1 || found[0].Level != want.level || found[0].What != want.what {
			t.Errorf("%s left: got %+v, want %+v", left, found, want)
		}
	}
	if found := auditCertificate(nil, now); found != nil {
		t.Errorf("without TLS: %+v", found)
	}
}

func TestAccountLock(t *testing.T) {
	for body, want := range map[string]string{
		`{"AccountLockoutThreshold":5,"AccountLockoutDuration":300}`: "ok after 5 failed logins, for 5m0s",
		`{"AccountLockoutThreshold":2}`:                              "warning after 2 failed logins",
		`{"AccountLockoutThreshold":0}`:                              "ok accounts are never locked",
		`{"AccountLockoutThreshold":-1}`:                             "",
		`{"AccountLockoutThreshold":"five"}`:                         "",
		`{}`:                                                         "",
		`[`:                                                          "",
	} {
		var got []string
		for _, f := range auditLock([]byte(body)) {
			got = append(got, f.Level.String()+" "+f.What)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: got %q, want %q", body, got, want)
		}
	}
}
