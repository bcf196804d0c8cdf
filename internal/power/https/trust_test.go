package https

import (
	"crypto/tls"
	"crypto/x509"
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
		found := CertificateFindings(&tls.ConnectionState{
			Version: tls.VersionTLS12, PeerCertificates: []*x509.Certificate{{NotAfter: now.Add(left)}},
		}, now, 30*24*time.Hour)
		if len(found) != 1 || found[0].Level != want.level || found[0].What != want.what {
			t.Errorf("%s left: got %+v, want %+v", left, found, want)
		}
	}
	if found := CertificateFindings(nil, now, 0); found != nil {
		t.Errorf("without TLS: %+v", found)
	}
}
