package inventory

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/setting"
)

// mistakes are the ways in which one host can be wrong. Each is the text of a
// host of that name and what is said of it, on which of its lines.
var mistakes = []struct {
	name string
	text func(id, address string) string
	line int // from the host's first
	says string
}{
	{"no such setting", host("  gpu = 8\n  power { address = %q }"), 1, `did you mean "gpus"?`},
	{"too many GPUs", host("  gpus = 65\n  power { address = %q }"), 1, "1 to 64"},
	{"a list for a number", host("  gpus = [8]\n  power { address = %q }"), 1, "is no plain value"},
	{"an empty node", host("  node = \"\"\n  power { address = %q }"), 1, "is not allowed"},
	{"the node of another", host("  node = \"good-0\"\n  power { address = %q }"), 0, `"good-0" is also the node of host "good-0"`},
	{"no such class", host("  class = \"h1O0\"\n  power { address = %q }"), 1, `did you mean "h100"?`},
	{"no such rack", host("  rack = \"r9\"\n  power { address = %q }"), 1, `no rack "r9"`},
	{"no such block", host("  bmc {}\n  power { address = %q }"), 1, "there is no such block"},
	{"two power blocks", host("  power { address = %q }\n  power {}"), 2, "a host has one"},
	{"no such driver", host("  power \"impi\" { address = %q }"), 1, `there is no power driver "impi"`},
	{"no such key of the driver", host("  power {\n    address = %q\n    cipher_suit = 3\n  }"), 3, `did you mean "cipher_suite"?`},
	{"a key of the driver is missing", host("  # address = %q\n  power {}"), 2, "is required and not there"},
	{"a wrong type", host("  power {\n    address = %q\n    cipher_suite = \"x\"\n  }"), 3, "number"},
	{"a value that the driver refuses", host("  power {\n    address = %q\n    cipher_suite = 0\n  }"), 3, "does not authenticate"},
	{"the controller of another", host("  # not %q\n  power { address = \"10.0.0.1\" }"), 2, `host "good-0" on line`},
	{"a password in clear", host("  power {\n    address = %q\n    password = \"hunter2\"\n  }"), 3, "in clear"},
	{"a password that is not there", host("  power {\n    address = %q\n    password = \"env:NOT_SET_HERE\"\n  }"), 3, "NOT_SET_HERE is not set"},
	{"a password file that is not there", host("  power {\n    address = %q\n    password = \"file:/nonexistent\"\n  }"), 3, "/nonexistent"},
	{"a name that is none", func(id, address string) string {
		return fmt.Sprintf("host \"%s/x\" {\n  node = %q\n  power { address = %q }\n}\n", id, id, address)
	}, 0, "is not a name"},
	{"the name of another", func(id, address string) string {
		return fmt.Sprintf("host \"good-1\" {\n  node = %q\n  power { address = %q }\n}\n", id, address)
	}, 0, `there is a host "good-1" on line`},
}

func host(body string) func(id, address string) string {
	return func(id, address string) string {
		return fmt.Sprintf("host %q {\n"+body+"\n}\n", id, address)
	}
}

const largeHead = `pool "large" {
  node_pool     = "gpu"
  gpus_per_host = 8
  power "ipmi" {
    username = "operator"
    password = "env:BMC_PASSWORD"
  }
  rack "r1" {}
`

// TestFiveThousandHostsWithEveryMistake: all of them are found, each on its own
// line, and the report stays one that can be read.
func TestFiveThousandHostsWithEveryMistake(t *testing.T) {
	t.Setenv("BMC_PASSWORD", "x")
	var b strings.Builder
	b.WriteString(largeHead)
	// So that "no such class" has something to be like.
	b.WriteString("  class \"h100\" {}\n")
	at := strings.Count(b.String(), "\n") + 1
	add := func(text string) int {
		line := at
		b.WriteString(text)
		at += strings.Count(text, "\n")
		return line
	}
	for i := range 2 {
		add(fmt.Sprintf("host \"good-%d\" {\n  class = \"h100\"\n  power { address = \"10.0.0.%d\" }\n}\n", i, i+1))
	}
	want := make(map[int]string) // by line
	const hosts = 5000
	for i := range hosts {
		m := mistakes[i%len(mistakes)]
		id := fmt.Sprintf("bad-%d", i)
		text := m.text(id, fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&0xff, i&0xff))
		line := m.line
		if !strings.Contains(text, "class =") {
			first, rest, _ := strings.Cut(text, "\n")
			text = first + "\n  class = \"h100\"\n" + rest
			if line > 0 {
				line++
			}
		}
		want[add(text)+line] = m.says
	}
	b.WriteString("}\n")

	_, err := Parse("pools.hcl", []byte(b.String()), check)
	var all setting.Problems
	if !errors.As(err, &all) {
		t.Fatalf("got %v", err)
	}
	said := make(map[int]string)
	for _, pr := range all {
		said[pr.Line] += pr.Error() + "\n"
	}
	missing := 0
	for line, says := range want {
		if !strings.Contains(said[line], says) && missing < 5 {
			missing++
			t.Errorf("line %d: %q is not in %q", line, says, said[line])
		}
		delete(said, line)
	}
	for line, text := range said {
		t.Errorf("line %d is right, and refused: %s", line, text)
		break
	}
	if len(all) < hosts {
		t.Errorf("%d mistakes in %d wrong hosts", len(all), hosts)
	}
	text := err.Error()
	if lines := strings.Count(text, "\n"); lines > 60 || len(text) > 32<<10 || !strings.Contains(text, "more") || !strings.Contains(text, "5000 mistakes") {
		t.Errorf("the report has %d lines and %d bytes, and ends %q", lines, len(text), text[len(text)-80:])
	}
	if strings.Contains(text, "hunter2") {
		t.Error("a password is printed")
	}
}

// BenchmarkParse reads inventories of the largest size.
func BenchmarkParse(b *testing.B) {
	b.Setenv("BMC_PASSWORD", "x")
	var s strings.Builder
	s.WriteString(largeHead + "class \"h100\" { watts_run = 10200 }\n")
	for i := range maxHosts {
		fmt.Fprintf(&s, "host \"gpu-%d\" {\n  class = \"h100\"\n  rack  = \"r1\"\n  power { address = \"10.%d.%d.%d\" }\n}\n", i, 1+i>>16, i>>8&0xff, i&0xff)
	}
	s.WriteString("}\n")
	src := []byte(s.String())
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, err := Parse("pools.hcl", src, check); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLenientDecodeIsStrict: who reads leniently gets no driver without its
// credential all the same.
func TestLenientDecodeIsStrict(t *testing.T) {
	inv, err := Parse("pools.hcl", []byte(small), check, Lenient())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Warnings) != 2 {
		t.Errorf("got %q", inv.Warnings)
	}
	err = inv.Pools[0].Hosts[0].Power.Decode(new(ipmiConfig))
	if err == nil || !strings.Contains(err.Error(), "BMC_PASSWORD is not set") {
		t.Errorf("got %v", err)
	}
	t.Setenv("BMC_USER", "operator")
	t.Setenv("BMC_PASSWORD", "x")
	if err := inv.Pools[0].Hosts[0].Power.Decode(new(ipmiConfig)); err != nil {
		t.Error(err)
	}
}
