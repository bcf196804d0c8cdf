package setting

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckPage(t *testing.T) {
	r := NewReader(Place{Subject: "x"}, nil)
	declare(r)
	doc := Markdown(r.Fields())
	path := filepath.Join(t.TempDir(), "page.md")

	if err := CheckPage(path, doc, true); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no page: %v", err)
	}
	page := func(generated string) string {
		return "# Title\n\n" + pageBegin + "\n" + generated + pageEnd + "\n\nThe end.\n"
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# Title\n")
	if err := CheckPage(path, doc, true); err == nil || !strings.Contains(err.Error(), "has no part between") {
		t.Errorf("no markers: %v", err)
	}
	write(page("old\n"))
	if err := CheckPage(path, doc, false); err == nil || !strings.Contains(err.Error(), "run the test with -update") {
		t.Errorf("old page: %v", err)
	}
	if err := CheckPage(path, doc, true); err != nil {
		t.Errorf("update: %v", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != page(doc) {
		t.Errorf("after the update the page is\n%s", got)
	}
	if err := CheckPage(path, doc, false); err != nil {
		t.Errorf("after the update: %v", err)
	}
}
