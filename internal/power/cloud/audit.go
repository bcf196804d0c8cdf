package cloud

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/https"
)

// Audit tells whether the endpoint's certificate is verified, whether its clock
// and ours agree, and whether the credential may start and stop the instance, as
// far as the cloud tells that without doing it. It reads the instance once.
func (d *Driver) Audit(ctx context.Context) []power.Finding {
	var found []power.Finding
	if d.config.Trust.Insecure {
		found = append(found, power.Finding{Level: power.Wrong, About: "certificate", What: "not verified: whoever answers in the cloud's place gets the credential",
			Mend: "set ca_file or fingerprint instead of insecure_skip_verify"})
	}
	// What fails here fails the reading of the power too, which says more.
	_ = d.turnstile.Pass(ctx, func(ctx context.Context) error {
		watched, seen := https.Watch(ctx)
		err := insist(ctx, func() error {
			_, err := d.account.api.Read(watched, []string{d.config.ID})
			return err
		})
		if err != nil {
			return err
		}
		found = append(found, d.auditPeer(seen.Peer())...)
		found = append(found, d.auditRights(ctx))
		return nil
	})
	return found
}

// expiresSoon is for certificates that the operator looks after. Those of public
// clouds are good for weeks only, and are renewed without anybody.
const expiresSoon = 30 * 24 * time.Hour

func (d *Driver) auditPeer(p https.Peer) []power.Finding {
	var found []power.Finding
	soon := time.Duration(0)
	if d.config.Trust != (https.Trust{}) {
		soon = expiresSoon
	}
	found = append(found, https.CertificateFindings(p.TLS, time.Now(), soon)...)
	if !p.Date.IsZero() {
		found = append(found, power.ApartFinding("the clock of the endpoint", p.Date, p.Asked, p.Answered))
	}
	return found
}

func (d *Driver) auditRights(ctx context.Context) power.Finding {
	f := power.Finding{About: "rights"}
	var lacks []string
	err := insist(ctx, func() (err error) {
		lacks, err = d.account.api.Rights(ctx, d.config.ID)
		return err
	})
	switch {
	case errors.Is(err, power.ErrUnsupported):
		f.What = "not told: " + strings.TrimPrefix(err.Error(), power.ErrUnsupported.Error()+": ")
	case err != nil:
		f.Level, f.What, f.Mend = power.Warning, fmt.Sprintf("it is not known whether the credential may start and stop it: %s", err), "ask again, or try it with gpupool power"
	case len(lacks) > 0:
		f.Level, f.What, f.Mend = power.Wrong, "the credential lacks "+strings.Join(lacks, " and "), "give it that, or nothing will be powered"
	default:
		f.What = "the credential may start and stop it"
	}
	return f
}

var _ power.Auditor = (*Driver)(nil)
