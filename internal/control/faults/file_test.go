package faults

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gpupool/gpupool/internal/pool"
)

// A schedule as a file: how it is printed when it fails, and how those in
// testdata are kept, so that what went wrong once is tried for ever. Lines that
// begin with # are for people.
//
//	seed 67
//	hosts 2
//	limits.Min 1
//	...
//	faults
//	2m44.468s  an operator says on of gpu-1 for 1m0s

// entries are what a file says before its faults, by name.
func (s *setup) entries() []entry {
	entries := []entry{
		{"seed", &s.seed}, {"hosts", &s.hosts}, {"classes", &s.class}, {"racks", &s.rack}, {"own-host", &s.self},
		{"learned", &s.learned}, {"want", &s.want}, {"poll", &s.poll}, {"offset", &s.offset},
		{"self-drain", &s.selfDrain}, {"chaos", &s.chaos},
	}
	l := reflect.ValueOf(&s.limits).Elem()
	for i := range l.NumField() {
		if f := l.Type().Field(i); f.IsExported() {
			entries = append(entries, entry{"limits." + f.Name, l.Field(i).Addr().Interface()})
		}
	}
	return entries
}

type entry struct {
	name  string
	value any // a pointer
}

func (e entry) String() string {
	if d, ok := e.value.(*time.Duration); ok {
		return e.name + " " + d.String()
	}
	text, err := json.Marshal(e.value)
	if err != nil {
		panic(err)
	}
	return e.name + " " + string(text)
}

func (e entry) read(text string) (err error) {
	if d, ok := e.value.(*time.Duration); ok {
		*d, err = time.ParseDuration(text)
		return err
	}
	return json.Unmarshal([]byte(text), e.value)
}

func (s setup) String() string {
	var b strings.Builder
	for _, e := range s.entries() {
		if !reflect.ValueOf(e.value).Elem().IsZero() {
			fmt.Fprintln(&b, e)
		}
	}
	fmt.Fprintln(&b, "faults")
	for _, f := range s.faults {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// readSetup reads what String wrote.
func readSetup(text string) (s setup, err error) {
	s.limits.Classes = map[string]pool.Class{}
	entries := s.entries()
	inFaults := false
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#':
			continue
		case line == "faults":
			inFaults = true
			continue
		case inFaults:
			f, err := readFault(line)
			if err != nil {
				return s, fmt.Errorf("%q: %w", line, err)
			}
			s.faults = append(s.faults, f)
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		known := false
		for _, e := range entries {
			if e.name == name {
				known = true
				if err := e.read(value); err != nil {
					return s, fmt.Errorf("%q: %w", line, err)
				}
			}
		}
		if !known {
			return s, fmt.Errorf("%q: no such entry", line)
		}
	}
	return s, nil
}

func readFault(line string) (f fault, err error) {
	at, rest, _ := strings.Cut(line, " ")
	if f.at, err = time.ParseDuration(at); err != nil {
		return f, err
	}
	rest = strings.TrimSpace(rest)
	for name := range kinds {
		if strings.HasPrefix(rest, name) && len(name) > len(f.kind) {
			f.kind = name
		}
	}
	if f.kind == "" {
		return f, fmt.Errorf("no such fault")
	}
	who := strings.TrimSpace(strings.TrimPrefix(rest, f.kind))
	if before, last, ok := strings.Cut(who, "for "); ok {
		if f.last, err = time.ParseDuration(last); err != nil {
			return f, err
		}
		who = strings.TrimSpace(before)
	}
	switch kinds[f.kind].who {
	case "host":
		_, err = fmt.Sscanf(who, "gpu-%d", &f.host)
		f.host--
	case "process":
		var letter rune
		_, err = fmt.Sscanf(who, "%c", &letter)
		f.host = int(letter - 'A')
		f.step = step(strings.TrimSpace(who[1:]))
	default:
		if who != "" {
			_, err = fmt.Sscanf(who, "%d", &f.host)
		}
	}
	return f, err
}

// TestFilesReadBack: a schedule that failed can be played from what was
// printed, so it comes out the same.
func TestFilesReadBack(t *testing.T) {
	for seed := range uint64(50) {
		s := generate(seed + 1)
		back, err := readSetup(s.String())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(s.String(), back.String()) {
			t.Fatalf("wrote\n%s\nread\n%s", s, back)
		}
		if one, other := play(t, s, true), play(t, back, true); one.story != other.story {
			t.Fatalf("seed %d plays\n%s\nand from its file\n%s", s.seed, one.story, other.story)
		}
	}
}

// TestFiles plays the schedules in testdata.
func TestFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/schedules/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no schedules: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := readSetup(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if out := play(t, s, true); out.broken != nil {
				t.Errorf("%q\n%s", out.broken, out.story)
			}
		})
	}
}
