package inventory_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/inventory"
	"github.com/gpupool/gpupool/internal/power/drivers"
)

// The files that people copy are right, down to the drivers' settings.
func TestFilesThatPeopleCopy(t *testing.T) {
	t.Setenv("BMC_PASSWORD", "s3cret")
	inv, err := inventory.Load("../../jobs/pools.hcl", drivers.Check)
	if err != nil {
		t.Error(err)
	} else if len(inv.Pools) == 0 {
		t.Error("jobs/pools.hcl has no pools")
	}

	page, err := os.ReadFile("../../docs/reference/pools.md")
	if err != nil {
		t.Fatal(err)
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(page), "```hcl\n")[1:]
	if len(examples) < 2 {
		t.Fatalf("docs/reference/pools.md has %d examples", len(examples))
	}
	for _, example := range examples {
		example, _, _ = strings.Cut(example, "```")
		example = strings.ReplaceAll(example, "/run/secrets/bmc-gpu-2", password)
		if _, err := inventory.Parse("pools.md", []byte(example), drivers.Check); err != nil {
			t.Error(err)
		}
	}
}
