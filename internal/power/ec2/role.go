package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/https"
)

const (
	rolePath        = "/latest/meta-data/iam/security-credentials/"
	metadataTimeout = 3 * time.Second // it is on the machine itself
)

// role is the role of the machine that this runs on, which its metadata
// service lends credentials of: IMDSv2, "Retrieve security credentials from
// instance metadata" in the User Guide.
type role struct {
	endpoint url.URL
	http     *http.Client
	loan     *cloud.Loan[keys]
}

func newRole(endpoint url.URL) (*role, error) {
	client, err := https.Trust{}.Client(2, &endpoint)
	if err != nil {
		return nil, err
	}
	r := &role{endpoint: endpoint, http: client}
	r.loan = cloud.NewLoan(r.fetch)
	return r, nil
}

func (r *role) fetch(ctx context.Context) (keys, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	token, err := r.ask(ctx, http.MethodPut, "/latest/api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if err != nil {
		return keys{}, time.Time{}, err
	}
	names, err := r.ask(ctx, http.MethodGet, rolePath, "X-Aws-Ec2-Metadata-Token", token)
	if err != nil {
		return keys{}, time.Time{}, err
	}
	name, _, _ := strings.Cut(strings.TrimSpace(names), "\n")
	text, err := r.ask(ctx, http.MethodGet, rolePath+url.PathEscape(name), "X-Aws-Ec2-Metadata-Token", token)
	if err != nil {
		return keys{}, time.Time{}, err
	}
	k, until, err := parseRole([]byte(text))
	if err != nil {
		return keys{}, time.Time{}, fmt.Errorf("%w: nothing was sent: the credential of this machine's role: %w", power.ErrUnreachable, err)
	}
	return k, until, nil
}

func (r *role) ask(ctx context.Context, method, path, key, value string) (string, error) {
	const what = "nothing was sent: the credential of this machine's role"
	req, err := http.NewRequestWithContext(ctx, method, r.endpoint.String()+path, nil)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", power.ErrUnreachable, what, err)
	}
	req.Header.Set(key, value)
	status, body, err := https.Send(r.http, req)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %s: no answer of the metadata service at %s; set access_key_id and secret_access_key if this is no EC2 instance: %w", power.ErrUnreachable, what, r.endpoint.Host, err)
	case status == http.StatusNotFound:
		return "", fmt.Errorf("%w: %s: it has no role; give the machine an instance profile, or set access_key_id and secret_access_key", power.ErrAuth, what)
	case status != http.StatusOK:
		return "", fmt.Errorf("%w: %s: the metadata service answers HTTP %d", power.ErrUnreachable, what, status)
	}
	return string(body), nil
}

// parseRole reads the credential of a role and when it ends.
func parseRole(body []byte) (keys, time.Time, error) {
	var reply struct {
		Code            string
		AccessKeyID     power.Secret `json:"AccessKeyId"`
		SecretAccessKey power.Secret
		Token           power.Secret
		Expiration      time.Time
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return keys{}, time.Time{}, errors.New("the metadata service answers with no JSON")
	}
	if reply.Code != "Success" || reply.AccessKeyID == "" || reply.SecretAccessKey == "" {
		return keys{}, time.Time{}, fmt.Errorf("the metadata service says %.60q", reply.Code)
	}
	return keys{reply.AccessKeyID, reply.SecretAccessKey, reply.Token}, reply.Expiration, nil
}
