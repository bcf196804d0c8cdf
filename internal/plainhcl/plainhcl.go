// Package plainhcl reads HCL files that hold plain values only: no variables,
// functions, operators or interpolation. What it reads goes to package setting,
// each value with its line.
package plainhcl

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/gpupool/gpupool/internal/setting"
)

const (
	maxNesting = 32 // brackets and quotes inside each other; the deepest sensible file has four
	maxDigits  = 20 // HCL numbers have any size, and the text of one as many digits
)

// Parse reads a file. The body is nil where there are problems.
func Parse(file string, src []byte) (*hclsyntax.Body, setting.Problems) {
	if pr, ok := check(file, src); !ok {
		return nil, setting.Problems{pr} // one is enough: the rest follows from it
	}
	parsed, diags := hclsyntax.ParseConfig(src, file, hcl.InitialPos)
	var problems setting.Problems
	for _, d := range diags {
		problems = append(problems, Problem(d, file, ""))
	}
	if len(problems) > 0 {
		return nil, problems // what the parser made of the rest is a guess
	}
	return parsed.Body.(*hclsyntax.Body), nil
}

// check refuses what a list of settings has no use for: expressions, deep
// nesting and astronomic numbers. It works on tokens, before the file is
// parsed, because the HCL parser recurses as deep as its input wants.
func check(file string, src []byte) (setting.Problem, bool) {
	tokens, _ := hclsyntax.LexConfig(src, file, hcl.InitialPos) // the parser reports what cannot be lexed
	depth := 0
	for i, tok := range tokens {
		what := ""
		switch tok.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			if depth++; depth > maxNesting {
				what = "is nested too deeply"
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
			depth--
		case hclsyntax.TokenNumberLit:
			if len(tok.Bytes) > maxDigits || bytes.ContainsAny(tok.Bytes, "eE") {
				what = "has a number that is out of all proportion"
			}
		case hclsyntax.TokenMinus:
			if !isSign(tokens, i) {
				what = "has an expression"
			}
		case hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			what = "has an expression in a text"
		case hclsyntax.TokenOParen, hclsyntax.TokenDot, hclsyntax.TokenEllipsis, hclsyntax.TokenQuestion,
			hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPercent,
			hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenBang, hclsyntax.TokenAnd, hclsyntax.TokenOr,
			hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
			what = "has an expression"
		}
		if what != "" {
			return setting.Problem{
				File: file, Line: tok.Range.Start.Line, What: what,
				Mend: `write plain values: numbers, true, false, or text in quotes ("$${" for a literal "${")`,
			}, false
		}
	}
	return setting.Problem{}, true
}

// isSign reports whether a minus is a number's sign, and not between two.
func isSign(tokens hclsyntax.Tokens, i int) bool {
	if i == 0 || i+1 == len(tokens) || tokens[i+1].Type != hclsyntax.TokenNumberLit {
		return false
	}
	switch tokens[i-1].Type {
	case hclsyntax.TokenEqual, hclsyntax.TokenComma, hclsyntax.TokenOBrack:
		return true
	}
	return false
}

// Given returns the attributes of a block as texts. The subject is what
// problems call the block.
func Given(body *hclsyntax.Body, file, subject string) (map[string]setting.Given, setting.Problems) {
	out := make(map[string]setting.Given)
	var problems setting.Problems
	for _, a := range Attributes(body) {
		v, diags := a.Expr.Value(nil)
		text, ok := "", false
		if !diags.HasErrors() {
			text, ok = Scalar(v)
		}
		if !ok {
			problems = append(problems, setting.Problem{File: file, Line: Line(a.NameRange), Subject: subject, Key: a.Name,
				What: "is no plain value", Mend: "write a number, true, false, or text in quotes"})
		}
		out[a.Name] = setting.Given{Text: text, Line: Line(a.NameRange), Rejected: !ok}
	}
	return out, problems
}

// Scalar returns the text of a text, number or truth value of a file that Parse
// took; false for all else.
func Scalar(v cty.Value) (string, bool) {
	if v.IsNull() || !v.IsKnown() {
		return "", false
	}
	switch v.Type() {
	case cty.String:
		return v.AsString(), true
	case cty.Bool:
		return fmt.Sprint(v.True()), true
	case cty.Number:
		return v.AsBigFloat().Text('f', -1), true // check bounded its digits
	}
	return "", false
}

// Attributes are those of a block, in the order of the file.
func Attributes(body *hclsyntax.Body) []*hclsyntax.Attribute {
	var out []*hclsyntax.Attribute
	for _, a := range body.Attributes {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *hclsyntax.Attribute) int {
		return cmp.Compare(a.NameRange.Start.Byte, b.NameRange.Start.Byte)
	})
	return out
}

// Problem turns an error of the HCL library into ours.
func Problem(d *hcl.Diagnostic, file, subject string) setting.Problem {
	pr := setting.Problem{File: file, Subject: subject, What: d.Summary, Mend: d.Detail}
	if d.Subject != nil {
		pr.Line = Line(*d.Subject)
	}
	return pr
}

// Subject is what problems call a block: `pool "h100"`.
func Subject(kind, label string) string {
	if label == "" {
		return kind
	}
	return fmt.Sprintf("%s %.80q", kind, label)
}

// Line is where a range begins.
func Line(r hcl.Range) int { return r.Start.Line }
