package secret

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{ // "" means that it parses
		"env:BMC_PASSWORD":     "",
		"file:/run/secrets/b":  "",
		"env:":                 "not followed by the name",
		"env:A B":              "not followed by the name",
		"file:":                "not followed by a path",
		"file:a\x00":           "not followed by a path",
		"nomad-var:gpupool/b":  `"nomad-var:" references are not supported yet`,
		"vault:kv/b#password":  `"vault:" references are not supported yet`,
		"hunter2":              "written in clear",
		"hunter2:with a colon": "written in clear",
		"":                     "written in clear",
	} {
		_, err := Parse(text)
		if want == "" {
			if err != nil {
				t.Errorf("Parse(%q): %v", text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), mend) {
			t.Errorf("Parse(%q): %v, want %q and the mend", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q) prints the credential: %v", text, err)
		}
	}
}

func TestIsRef(t *testing.T) {
	for text, want := range map[string]bool{
		"env:A": true, "file:x": true, "vault:x": true, "nomad-var:x": true,
		"": false, "admin": false, "https://x": false, "environment": false,
	} {
		if got := IsRef(text); got != want {
			t.Errorf("IsRef(%q) = %v", text, got)
		}
	}
}

func TestResolve(t *testing.T) {
	t.Setenv("SET", "s3cret")
	t.Setenv("EMPTY", "")
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + path
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ ref, want, err string }{
		{"env:SET", "s3cret", ""},
		{"env:EMPTY", "", "variable EMPTY is empty"},
		{"env:SURELY_NOT_SET", "", "variable SURELY_NOT_SET is not set; set it"},
		{write("plain", "s3cret"), "s3cret", ""},
		{write("line", " s3cret \n"), " s3cret ", ""},
		{write("dos", "s3cret\r\n"), "s3cret", ""},
		{write("two", "s3cret\n\n"), "s3cret\n", ""},
		{write("empty", "\n"), "", "is empty"},
		{write("huge", strings.Repeat("x", maxFile+1)), "", "larger than"},
		{"file:" + pipe, "", "not a regular file"},
		{"file:" + dir, "", "not a regular file"},
		{"file:" + dir + "/none", "", "no such file"},
		{"hunter2", "", "written in clear"},
	} {
		got, err := Ref(tc.ref).Resolve()
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%s: error %v, want %q", tc.ref, err, tc.err)
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.ref, got, tc.want)
		}
	}
}

func TestResolveFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	for _, want := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Ref("file:" + path).Resolve(); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestWarning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := Ref("file:" + path).Warning(); w != "" {
		t.Errorf("mode 0600: %q", w)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if w := Ref("file:" + path).Warning(); !strings.Contains(w, "mode 0644") || !strings.Contains(w, "chmod 600 "+path) {
		t.Errorf("mode 0644: %q", w)
	}
	if w := Ref("env:X").Warning(); w != "" {
		t.Errorf("env: %q", w)
	}
}
