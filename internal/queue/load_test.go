package queue_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/gpupool/gpupool/internal/queue"
	"github.com/gpupool/gpupool/internal/queue/sources"
	"github.com/gpupool/gpupool/internal/setting"
)

var update = flag.Bool("update", false, "write the generated part of the reference page")

// TestDiagnostics reads files and prints what they hold, or what is wrong with
// them.
func TestDiagnostics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PASSWORD", "from-env")
	t.Setenv("EMPTY", "")
	datadriven.Walk(t, "testdata/golden", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			set, err := sources.Parse("queues.hcl", []byte(strings.ReplaceAll(d.Input, "SECRETFILE", file)))
			var out string
			if err != nil {
				out = err.Error() + "\n"
			} else {
				out = describe(set)
				defer set.Close()
			}
			for _, leak := range []string{"from-env", "from-file", "hunter2"} {
				if strings.Contains(out, leak) || strings.Contains(fmt.Sprintf("%+v %#v", set, err), leak) {
					t.Errorf("%s: a credential is printed", d.Pos)
				}
			}
			return strings.ReplaceAll(out, file, "SECRETFILE")
		})
	})
}

func describe(set *queue.Set) string {
	var b strings.Builder
	for _, q := range set.Queues {
		fmt.Fprintf(&b, "queue %s: %s of %s, active above %v\n", q.Name, q.Combine, strings.Join(q.Sources(), ", "), q.Activation)
	}
	for _, w := range set.Warnings {
		fmt.Fprintln(&b, "warning:", w)
	}
	return b.String()
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "queues.hcl")
	if _, err := sources.Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := sources.Load(dir); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a directory: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sources.Load(path); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("a huge file: %v", err)
	}
	if err := os.WriteFile(path, []byte(`queue "a" { source "redis" { address = "h:1", list_name = "x" } }`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sources.Load(path); err == nil {
		t.Error("one line with a comma was read")
	}
	if err := os.WriteFile(path, []byte("queue \"a\" {\n source \"redis\" {\n address = \"h:1\"\n list_name = \"x\"\n }\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := sources.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, found := set.Queue("a"); !found || len(set.Queues) != 1 {
		t.Errorf("got %+v", set)
	}
	if _, found := set.Queue("b"); found {
		t.Error("there is a queue b")
	}
	for range 2 {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTooMuch(t *testing.T) {
	one := "source \"redis\" {\n address = \"h:1\"\n list_name = \"x\"\n }\n"
	var queues, srcs strings.Builder
	for i := range 201 {
		fmt.Fprintf(&queues, "queue \"q%d\" {\n%s}\n", i, one)
	}
	srcs.WriteString("queue \"q\" {\n" + strings.Repeat(one, 17) + "}\n")
	for src, want := range map[string]string{
		queues.String(): "more than 200 queues", srcs.String(): "more than 16 sources",
		strings.Repeat("queue {\n", 20_000): "write plain values",
	} {
		if _, err := sources.Parse("queues.hcl", []byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// The file that people copy is right, and so is the page's example.
func TestFilesThatPeopleCopy(t *testing.T) {
	for _, name := range []string{"REDIS_PASSWORD", "NATS_PASSWORD", "RABBITMQ_PASSWORD", "PG_PASSWORD", "KAFKA_PASSWORD", "NOMAD_TOKEN", "PROMETHEUS_TOKEN"} {
		t.Setenv(name, "s3cret")
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../jobs/queues.hcl")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```hcl\n")
	inPage, _, _ := strings.Cut(rest, "```")
	secretFile := regexp.MustCompile(`file:/run/secrets/[a-z-]+`)
	caFile := regexp.MustCompile(`(?m)^ *ca_file .*$`)
	for name, src := range map[string]string{"jobs/queues.hcl": string(example), "docs/reference/queues.md": inPage} {
		src = caFile.ReplaceAllString(secretFile.ReplaceAllString(src, "file:"+password), "")
		set, err := sources.Parse(name, []byte(src))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(set.Queues) == 0 || len(set.Warnings) > 0 {
			t.Errorf("%s: %s", name, describe(set))
		}
		_ = set.Close()
	}
	// Each kind is in one of them.
	for _, k := range sources.Kinds() {
		if !strings.Contains(string(example)+inPage, fmt.Sprintf("source %q", k.Name)) {
			t.Errorf("no example of %s", k.Name)
		}
	}
}

const page = "../../docs/reference/queues.md"

// TestReferencePage keeps docs/reference/queues.md what the code says.
func TestReferencePage(t *testing.T) {
	if err := setting.CheckPage(page, queue.Reference(sources.Kinds()), *update); err != nil {
		t.Error(err)
	}
}

// The table is in order, and its KEDA names are of keys that there are.
func TestTable(t *testing.T) {
	kinds := sources.Kinds()
	if !slices.IsSortedFunc(kinds, func(a, b queue.Kind) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the table is not in order")
	}
	for _, k := range kinds {
		r := setting.NewReader(setting.Place{}, nil)
		k.Declare(r)
		keys := slices.Clone(k.Targets)
		for _, f := range r.Fields() {
			if slices.Contains(keys, f.Key) {
				t.Errorf("%s: %s is declared twice", k.Name, f.Key)
			}
			keys = append(keys, f.Key)
		}
		keys = append(keys, "timeout", "missing_as_zero")
		for key := range k.KEDA {
			if !slices.Contains(keys, key) {
				t.Errorf("%s: KEDA's name of %s, which is no key", k.Name, key)
			}
		}
		if len(k.Targets) == 0 || k.Doc == "" {
			t.Errorf("%s has no target or no doc", k.Name)
		}
	}
}

func FuzzParse(f *testing.F) {
	golden, err := filepath.Glob("testdata/golden/*")
	if err != nil || len(golden) == 0 {
		f.Fatal("no golden files", err)
	}
	for _, path := range golden {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(content), "\n\n") {
			_, part, _ = strings.Cut(part, "\n")
			src, _, _ := strings.Cut(part, "\n----\n")
			f.Add(src)
		}
	}
	f.Fuzz(func(t *testing.T, src string) {
		set, err := sources.Parse("queues.hcl", []byte(src))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "queues.hcl") && !strings.Contains(err.Error(), "\n  queues.hcl:") {
				t.Errorf("an error without a place: %v", err)
			}
			return
		}
		_ = describe(set)
		for _, q := range set.Queues {
			if len(q.Sources()) == 0 || !(q.Activation >= 0) {
				t.Errorf("an impossible queue was accepted: %+v", q)
			}
		}
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
}
