package ec2_test

import (
	"net/http"
	"testing"

	"github.com/gpupool/gpupool/internal/power"
	"github.com/gpupool/gpupool/internal/power/cloud"
	"github.com/gpupool/gpupool/internal/power/cloud/cloudtest"
	"github.com/gpupool/gpupool/internal/power/ec2"
	"github.com/gpupool/gpupool/internal/power/ec2/ec2test"
	"github.com/gpupool/gpupool/internal/power/powertest"
)

const wrongSecret = "not-the-secret-not-the-secret-not-the-se"

func TestContract(t *testing.T) {
	for _, soft := range []string{"stop", "hibernate"} {
		t.Run(soft, func(t *testing.T) {
			powertest.Run(t, powertest.Rig{
				Start: func(t *testing.T) powertest.Controller {
					e := ec2test.Start(t)
					open := func(secret power.Secret) func() (power.Driver, error) {
						return func() (power.Driver, error) {
							c := config(e, ec2test.InstanceID(1))
							c.SecretAccessKey, c.SoftOff = secret, soft
							return ec2.New(c)
						}
					}
					return e.Controller(open(ec2test.SecretAccessKey), open(wrongSecret))
				},
				Secret:      ec2test.SecretAccessKey,
				WrongSecret: wrongSecret,
				Frames:      cloudtest.Frames("ec2"),
				Lacks:       map[string]string{"no secret in argv": "the driver starts no process"},
			})
		})
	}
}

func TestCloud(t *testing.T) {
	cloudtest.Run(t, cloudtest.Rig{
		Start: func(t *testing.T, ids ...string) *cloudtest.Cloud {
			return ec2test.Start(t, ids...).Cloud
		},
		ID: ec2test.InstanceID,
		Open: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			return ec2.New(config(&ec2test.Endpoint{Cloud: c}, id))
		},
		OpenInsecure: func(c *cloudtest.Cloud, id string) (power.Driver, error) {
			cfg := config(&ec2test.Endpoint{Cloud: c}, id)
			cfg.CAFile, cfg.InsecureSkipVerify = "", true
			return ec2.New(cfg)
		},
		Rights:   "a dry run is asked of AWS itself only",
		IsChange: func(r *http.Request) bool { return !cloudtest.HasInBody(r, "Action=Describe") },
		Phases:   []cloud.Phase{cloud.Starting, cloud.Stopping, cloud.Leaving, cloud.Gone, cloud.Unknown},
		Secret:   ec2test.SecretAccessKey,
	})
}

// config reaches an instance.
func config(e *ec2test.Endpoint, id string) ec2.Config {
	return ec2.Config{
		InstanceID: id, Region: ec2test.Region,
		AccessKeyID: ec2test.AccessKeyID, SecretAccessKey: ec2test.SecretAccessKey,
		Endpoint: e.URL, CAFile: e.CAFile,
	}
}
