package setting

import (
	"bytes"
	"fmt"
	"os"
)

// The generated part of a reference page lies between these two lines.
const (
	pageBegin = "<!-- generated: begin -->"
	pageEnd   = "<!-- generated: end -->"
)

// CheckPage reports whether the generated part of the reference page at path
// is want. With update it writes want there instead, leaving the rest of the
// page as it is. It is for tests, so that pages cannot drift from the code:
//
//	r := pluginconfig.Read("target-gpupool", nil)
//	decode(r)
//	err := setting.CheckPage("../../docs/reference/target-gpupool.md", r.Doc(), *update)
func CheckPage(path, want string, update bool) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reference page: %w; write one with the lines %q and %q in it", err, pageBegin, pageEnd)
	}
	before, rest, ok1 := bytes.Cut(page, []byte(pageBegin+"\n"))
	got, after, ok2 := bytes.Cut(rest, []byte(pageEnd))
	if !ok1 || !ok2 {
		return fmt.Errorf("reference page %s has no part between the lines %q and %q", path, pageBegin, pageEnd)
	}
	if string(got) == want {
		return nil
	}
	if !update {
		return fmt.Errorf("reference page %s is not what the code says; run the test with -update\ngot:\n%swant:\n%s", path, got, want)
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%s%s\n%s%s%s", before, pageBegin, want, pageEnd, after), 0o644)
}
