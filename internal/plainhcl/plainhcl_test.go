package plainhcl

import (
	"strings"
	"testing"
)

func TestPlainValues(t *testing.T) {
	body, problems := Parse("a.hcl", []byte("pool \"x\" {\n  a = -3\n  b = \"1m\"\n  c = true\n  d = [1, -2]\n}\n"))
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	given, problems := Given(body.Blocks[0].Body, "a.hcl", `pool "x"`)
	for key, want := range map[string]string{"a": "-3", "b": "1m", "c": "true"} {
		if given[key].Text != want || given[key].Rejected {
			t.Errorf("%s: %+v, want %q", key, given[key], want)
		}
	}
	if given["b"].Line != 3 {
		t.Errorf("b is on line %d", given["b"].Line)
	}
	if err := problems.Err(); err == nil || !strings.Contains(err.Error(), `a.hcl:5: pool "x": d: is no plain value`) {
		t.Errorf("a list: %v", err)
	}
}

func TestExpressionsAreRefused(t *testing.T) {
	for _, text := range []string{
		"a = 1 - 2", "a = 1 + 2", "a = b.c", "a = f(1)", "a = -b", `a = "${b}"`, "a = !true", "a = b ? 1 : 2", "a = [for x in [1] : x]...",
		"a = 1e999999999", "a = " + strings.Repeat("9", 21), "a = " + strings.Repeat("[", 40) + strings.Repeat("]", 40),
	} {
		if body, problems := Parse("a.hcl", []byte("\n"+text+"\n")); body != nil || len(problems) == 0 || problems[0].Line != 2 {
			t.Errorf("%.40s: %v", text, problems)
		}
	}
}

func TestAllSyntaxErrorsHaveALine(t *testing.T) {
	_, problems := Parse("a.hcl", []byte("a = \nb {\n"))
	if len(problems) == 0 || problems[0].Line == 0 {
		t.Errorf("%v", problems)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pool \"x\" {\n  a = -3\n}\n")
	f.Fuzz(func(t *testing.T, text string) {
		body, problems := Parse("f.hcl", []byte(text))
		if (body == nil) != (len(problems) > 0) {
			t.Errorf("body %v, problems %v", body != nil, problems)
		}
		if body != nil {
			Given(body, "f.hcl", "f")
		}
	})
}
