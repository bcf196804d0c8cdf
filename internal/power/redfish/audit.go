package redfish

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/stmcginnis/gofish"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	serviceRoot    = "/redfish/v1/"
	accountService = "/redfish/v1/AccountService"

	expiresSoon = 30 * 24 * time.Hour
	fewTries    = 3 // failed logins before a lock, below which it is told
)

// Audit tells whether the service's certificate is verified and for how long it
// is good, whether its clock is right, and when it locks accounts out. It logs
// in once, and reads the service root and the account service.
func (d *Driver) Audit(ctx context.Context) []power.Finding {
	var found []power.Finding
	if d.config.trust.Insecure {
		found = append(found, power.Finding{Level: power.Wrong, About: "certificate", What: "not verified: whoever answers in the BMC's place gets the password",
			Mend: "set ca_file or fingerprint instead of insecure_skip_verify"})
	}
	// What fails here fails the reading of the power too, which says more.
	_ = d.call(ctx, "audit", func(ctx context.Context, _ *gofish.APIClient, _ *system) error {
		began := time.Now()
		if root, err := d.get(ctx, serviceRoot); err == nil {
			found = append(found, https.CertificateFindings(root.tls, time.Now(), expiresSoon)...)
			if at, err := http.ParseTime(root.date); err == nil {
				found = append(found, power.ClockFinding("the BMC", at, began))
			}
		}
		if accounts, err := d.get(ctx, accountService); err == nil && accounts.status == http.StatusOK {
			found = append(found, auditLock(accounts.body)...)
		}
		return nil
	})
	return found
}

// resource is what an audit wants to know of an answer.
type resource struct {
	status int
	date   string // of the service's clock
	tls    *tls.ConnectionState
	body   []byte
}

// get reads a resource as the account of the driver.
func (d *Driver) get(ctx context.Context, path string) (resource, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.config.endpoint()+path, nil)
	if err != nil {
		return resource{}, err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return resource{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(resp.Body)
	return resource{resp.StatusCode, resp.Header.Get("Date"), resp.TLS, body}, err
}

// auditLock tells when the service locks accounts out (Redfish schema
// AccountService).
func auditLock(body []byte) []power.Finding {
	var s struct {
		Threshold *int `json:"AccountLockoutThreshold"`
		Duration  *int `json:"AccountLockoutDuration"` // seconds
	}
	if json.Unmarshal(body, &s) != nil || s.Threshold == nil || *s.Threshold < 0 {
		return nil
	}
	f := power.Finding{About: "account lock"}
	switch n := *s.Threshold; {
	case n == 0:
		f.What = "accounts are never locked"
		return []power.Finding{f}
	case n < fewTries:
		f.Level, f.Mend = power.Warning, "raise AccountLockoutThreshold: a slip of the pen locks gpupool out"
	}
	f.What = fmt.Sprintf("after %d failed logins", *s.Threshold)
	if s.Duration != nil && *s.Duration > 0 {
		f.What += fmt.Sprintf(", for %s", time.Duration(min(*s.Duration, 1<<31))*time.Second)
	}
	return []power.Finding{f}
}

var _ power.Auditor = (*Driver)(nil)
