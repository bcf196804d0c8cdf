package jsonl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// plain writes texts as they are, after a header.
func plain() Format[string] {
	return Format[string]{
		Begin: func() ([]byte, error) { return []byte("header\n"), nil },
		Encode: func(e string, lost int) ([]byte, error) {
			if e == "bad" {
				return nil, errors.New("it cannot be written")
			}
			return fmt.Appendf(nil, "%s lost=%d\n", e, lost), nil
		},
	}
}

// TestFilesAreBounded: a full file is moved on, each begins with a header, and
// the oldest goes.
func TestFilesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := Open(Config{Path: path, MaxBytes: 20, Keep: 2, Queue: 10}, plain())
	for i := range 5 {
		l.Add(fmt.Sprint("entry-", i))
	}
	l.Close()
	for i, want := range []string{"entry-4", "entry-3", "entry-2", ""} {
		text := read(t, Numbered(path, i))
		if want == "" && text != "" || !strings.Contains(text, want) || text != "" && !strings.HasPrefix(text, "header\n") {
			t.Errorf("file %d is %q, want %s in it", i, text, want)
		}
	}
}

// TestWhatIsLostIsCounted: an entry that could not be written is told of with
// the next one that could, and reported once, as is the end of it.
func TestWhatIsLostIsCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var said []error
	l := Open(Config{Path: path, Queue: 10, Report: func(err error) { said = append(said, err) }}, plain())
	for _, e := range []string{"a", "bad", "bad", "b", "c"} {
		l.Add(e)
	}
	l.Close()
	if got := read(t, path); got != "header\na lost=0\nb lost=2\nc lost=0\n" {
		t.Errorf("got %q", got)
	}
	if len(said) != 2 || said[0] == nil || !strings.Contains(said[0].Error(), path) || said[1] != nil {
		t.Errorf("it reported %v", said)
	}
}

// TestATornLineIsEnded: what a kill left is not run together with what follows.
func TestATornLineIsEnded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("header\nhalf a li"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := Open(Config{Path: path}, plain())
	l.Add("a")
	l.Close()
	if got := read(t, path); got != "header\nhalf a li\nheader\na lost=0\n" {
		t.Errorf("got %q", got)
	}
}
