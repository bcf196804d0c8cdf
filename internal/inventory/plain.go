package inventory

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/gpupool/gpupool/internal/setting"
)

const (
	maxNesting = 32 // brackets and quotes inside each other; the deepest sensible file has four
	maxDigits  = 20 // HCL numbers have any size, and the text of one as many digits
)

// checkPlain refuses what a list of machines has no use for: expressions,
// deep nesting and astronomic numbers. It works on tokens, before the file is
// parsed, because the HCL parser recurses as deep as its input wants.
func (p *parser) checkPlain(src []byte) bool {
	tokens, _ := hclsyntax.LexConfig(src, p.file, hcl.InitialPos) // the parser reports what cannot be lexed
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
			if i+1 == len(tokens) || tokens[i+1].Type != hclsyntax.TokenNumberLit {
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
			p.problems = append(p.problems, setting.Problem{
				File: p.file, Line: tok.Range.Start.Line, What: what,
				Mend: `write plain values: numbers, true, false, or text in quotes ("$${" for a literal "${")`,
			})
			return false // one is enough: the rest follows from it
		}
	}
	return true
}
