package pool

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryReasonIsDocumented: whatever a decision may say of a host is in the
// tables of docs/operations.md, for whoever has to act on it. The reasons are
// the texts in the source of what decides, since no list of them could be whole.
func TestEveryReasonIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string // the code spans of its tables
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "|") {
			for i, span := range strings.Split(line, "`") {
				if i%2 == 1 {
					documented = append(documented, span)
				}
			}
		}
	}
	found := 0
	for _, file := range []string{"phase.go", "reconcile.go", "grow.go", "shrink.go"} {
		for _, reason := range reasons(t, file) {
			found++
			if !said(reason, documented) {
				t.Errorf("%s: %q is in no table of docs/operations.md", file, reason)
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d reasons were found in the source: this tests too little", found)
	}
}

// others are texts of the source that are no reasons, or parts of some.
var others = map[string]bool{
	"1 host boots":   true, // the same as of several
	"15:04 UTC":      true,
	", %s":           true,
	" and %d more":   true,
	" (and %d more)": true,
	"%s: %s":         true,
}

// reasons are the texts of a file, but for names.
func reasons(t *testing.T, file string) []string {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, d := range tree.Decls {
		f, isFunc := d.(*ast.FuncDecl)
		if g, isGen := d.(*ast.GenDecl); isGen && g.Tok == token.IMPORT || isFunc && f.Name.Name == "String" {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			if text != "" && !others[text] {
				texts = append(texts, text)
			}
			return true
		})
	}
	return texts
}

// verb is a place in a reason where something is filled in.
var verb = regexp.MustCompile(`%[-+.0-9]*[a-z]`)

// said reports whether some span has the reason, with something filled in.
func said(reason string, spans []string) bool {
	words := verb.Split(reason, -1)
	for i := range words {
		words[i] = regexp.QuoteMeta(words[i])
	}
	pattern := regexp.MustCompile(strings.Join(words, ".*"))
	return slices.ContainsFunc(spans, pattern.MatchString)
}
