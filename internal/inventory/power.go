package inventory

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/gpupool/gpupool/internal/plainhcl"
	"github.com/gpupool/gpupool/internal/secret"
	"github.com/gpupool/gpupool/internal/setting"
)

// Power says how a host is powered: the driver's name and its settings, those
// of the host over those of its pool.
type Power struct {
	Driver string

	file     string
	subject  string // the host's, for what is missing
	body     *hclsyntax.Body
	subjects map[string]string // by key: whose block it is from
	lenient  *lenience         // nil, save while a lenient reading checks it
}

// lenience is what a lenient reading let pass.
type lenience struct {
	keys     map[string]bool // whose credential could not be had
	warnings []string
}

// stands for a credential that could not be had.
const unresolved = "unresolved"

// unresolvedError is why a right reference gives no credential.
type unresolvedError struct{ error }

func (e unresolvedError) Unwrap() error { return e.error }

func newPower(file, driver string, at *hclsyntax.Block, subj string) Power {
	return Power{
		Driver: driver, file: file, subject: subj + ": " + plainhcl.Subject("power", driver),
		body: &hclsyntax.Body{
			Attributes: make(hclsyntax.Attributes),
			SrcRange:   at.Body.SrcRange,
			EndRange:   at.TypeRange, // where HCL says that something is missing
		},
		subjects: make(map[string]string),
	}
}

// add lays the settings of a power block over those that are there. A nested
// block takes the place of all of its type.
func (p *Power) add(body *hclsyntax.Body, subj string) {
	for key, a := range body.Attributes {
		p.body.Attributes[key] = a
		p.subjects[key] = subj
	}
	p.body.Blocks = slices.DeleteFunc(slices.Clone(p.body.Blocks), func(old *hclsyntax.Block) bool {
		return slices.ContainsFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == old.Type })
	})
	p.body.Blocks = append(p.body.Blocks, body.Blocks...)
}

// Decode reads the settings into a driver's configuration: a pointer to a
// struct with gohcl tags. References to credentials are resolved anew at each
// call. The error has all mistakes and no credential; it is a
// [setting.Problems].
//
// A key holds a credential if its field's type has a method Reveal() string,
// as power.Secret has, or if it is named like one (password, token, secret,
// api_key and so on). A credential written in clear is refused.
func (p Power) Decode(into any) error {
	if p.body == nil {
		return errors.New("inventory: Decode of an empty Power")
	}
	isSecret := credentialFields(into)
	body, problems := p.resolve(p.body, func(key string) bool { return isSecret[key] || namedLikeSecret(key) })
	problems = append(problems, p.checkKeys(into)...)
	if len(problems) > 0 {
		return problems.Err()
	}
	diags := gohcl.DecodeBody(body, nil, into)
	for _, d := range diags {
		pr := plainhcl.Problem(d, p.file, p.subject)
		if key := p.keyOnLine(d); key != "" {
			pr.Subject, pr.Key = p.subjects[key], key
		}
		problems = append(problems, pr)
	}
	return problems.Err()
}

// checkKeys finds what is missing and what is too much. gohcl would too, in
// words that do not fit the rest.
func (p Power) checkKeys(into any) setting.Problems {
	schema, partial := gohcl.ImpliedBodySchema(into)
	var out setting.Problems
	var known []string
	for _, a := range schema.Attributes {
		known = append(known, a.Name)
		if a.Required && p.body.Attributes[a.Name] == nil {
			out = append(out, setting.Problem{File: p.file, Line: plainhcl.Line(p.body.EndRange), Subject: p.subject, Key: a.Name,
				What: "is required and not there", Mend: "add it to the power block of the host, or to that of its pool for all hosts"})
		}
	}
	for _, a := range plainhcl.Attributes(p.body) {
		if !partial && !slices.Contains(known, a.Name) {
			out = append(out, p.problem(a, "there is no such setting", setting.Suggest(a.Name, known)))
		}
	}
	return out
}

// keyOnLine returns the setting that a diagnostic is about.
func (p Power) keyOnLine(d *hcl.Diagnostic) string {
	for key, a := range p.body.Attributes {
		if d.Subject != nil && a.SrcRange.Overlaps(*d.Subject) {
			return key
		}
	}
	return ""
}

// verify checks the settings, with the driver if there is a check, and returns
// the identity of the power controller, if it has one.
func (p Power) verify(check Check) (controller string, problems setting.Problems) {
	if check == nil {
		_, problems = p.resolve(p.body, namedLikeSecret)
		return p.address(), problems
	}
	controller, err := check(p.Driver, p.Decode)
	if p.lenient != nil {
		// What the driver says of the stand-in is said of nothing.
		defer func() {
			problems = slices.DeleteFunc(problems, func(pr setting.Problem) bool { return p.lenient.keys[pr.Key] })
		}()
	}
	for _, err := range setting.Split(err) {
		var known setting.Problems
		if errors.As(err, &known) {
			problems = append(problems, known...)
			continue
		}
		problems = append(problems, p.place(err))
	}
	return controller, problems
}

// place finds the line that a driver's error is about.
func (p Power) place(err error) setting.Problem {
	pr := setting.Problem{File: p.file, Line: plainhcl.Line(p.body.EndRange), Subject: p.subject, What: err.Error()}
	key, rest, found := strings.Cut(err.Error(), ": ")
	if a := p.body.Attributes[key]; found && a != nil {
		pr.Line, pr.Subject, pr.Key, pr.What = plainhcl.Line(a.NameRange), p.subjects[key], key, rest
	}
	return pr
}

// address guesses the identity of a controller without knowing its driver.
func (p Power) address() string {
	for _, key := range []string{"address", "mac", "url", "endpoint", "instance_id"} {
		if a := p.body.Attributes[key]; a != nil {
			if v, diags := a.Expr.Value(nil); !diags.HasErrors() {
				if text, ok := plainhcl.Scalar(v); ok && text != "" {
					return p.Driver + ":" + strings.ToLower(strings.TrimSpace(text))
				}
			}
		}
	}
	return ""
}

// resolve returns a copy of body in which references to credentials are
// replaced by what they refer to.
func (p Power) resolve(body *hclsyntax.Body, isSecret func(key string) bool) (*hclsyntax.Body, setting.Problems) {
	var problems setting.Problems
	out := *body
	out.Attributes = make(hclsyntax.Attributes, len(body.Attributes))
	for _, a := range plainhcl.Attributes(body) {
		out.Attributes[a.Name] = a
		v, diags := a.Expr.Value(nil)
		if diags.HasErrors() {
			problems = append(problems, p.problem(a, "is no plain value", "write a number, true, false, or text in quotes"))
			continue
		}
		resolved, err := cty.Transform(v, func(path cty.Path, v cty.Value) (cty.Value, error) {
			key := leafKey(a.Name, path)
			v, err := resolveLeaf(key, v, isSecret)
			if away := (unresolvedError{}); p.lenient != nil && errors.As(err, &away) {
				p.lenient.keys[a.Name] = true
				p.lenient.warnings = append(p.lenient.warnings, p.problem(a, err.Error(), "").Error())
				return cty.StringVal(unresolved), nil
			}
			if err != nil && key != a.Name {
				err = fmt.Errorf("%s: %w", key, err)
			}
			return v, err
		})
		if err != nil {
			what, mend, _ := strings.Cut(err.Error(), "; ")
			problems = append(problems, p.problem(a, what, mend))
			continue
		}
		if !resolved.RawEquals(v) {
			copied := *a
			copied.Expr = &hclsyntax.LiteralValueExpr{Val: resolved, SrcRange: a.Expr.Range()}
			out.Attributes[a.Name] = &copied
		}
	}
	out.Blocks = nil
	for _, b := range body.Blocks {
		inner, more := p.resolve(b.Body, isSecret)
		problems = append(problems, more...)
		copied := *b
		copied.Body = inner
		out.Blocks = append(out.Blocks, &copied)
	}
	return &out, problems
}

func (p Power) problem(a *hclsyntax.Attribute, what, mend string) setting.Problem {
	subj, found := p.subjects[a.Name]
	if !found {
		subj = p.subject
	}
	return setting.Problem{File: p.file, Line: plainhcl.Line(a.NameRange), Subject: subj, Key: a.Name, What: what, Mend: mend}
}

// resolveLeaf replaces the value of one key if it is a reference. A user name
// may be one too, since it often lies with its password.
func resolveLeaf(key string, v cty.Value, isSecret func(string) bool) (cty.Value, error) {
	if v.IsNull() || !v.Type().IsPrimitiveType() {
		return v, nil
	}
	text, _ := plainhcl.Scalar(v)
	if !isSecret(key) && !(userName.MatchString(key) && secret.IsRef(text)) {
		return v, nil
	}
	ref, err := secret.Parse(text)
	if err != nil {
		return v, err
	}
	value, err := ref.Resolve()
	if err != nil {
		return v, unresolvedError{err}
	}
	return cty.StringVal(value), nil
}

// leafKey names what a value inside an attribute is called: the attribute, or
// the key of the map that it is in.
func leafKey(attr string, path cty.Path) string {
	for _, step := range slices.Backward(path) {
		switch s := step.(type) {
		case cty.GetAttrStep:
			return s.Name
		case cty.IndexStep:
			if s.Key.Type() == cty.String {
				return s.Key.AsString()
			}
		}
	}
	return attr
}

var (
	secretName = regexp.MustCompile(`(?i)(^|[_-])(password|passwd|passphrase|token|secret|credentials|kg|(api|secret|private|access)_key|access_key_id)$`)
	userName   = regexp.MustCompile(`(?i)^user(name)?$`)
)

func namedLikeSecret(key string) bool { return secretName.MatchString(key) }

// credentialFields returns the keys whose fields can hold a credential.
func credentialFields(into any) map[string]bool {
	out := make(map[string]bool)
	t := reflect.TypeOf(into)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return out
	}
	reveals := reflect.TypeFor[interface{ Reveal() string }]()
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("hcl"), ",")
		if key != "" && (f.Type.Implements(reveals) || reflect.PointerTo(f.Type).Implements(reveals)) {
			out[key] = true
		}
	}
	return out
}

// skipsVerification is the key of all drivers that turns TLS verification off.
const skipsVerification = "insecure_skip_verify"

// warnings says what is unsafe about where the credentials lie, and where they
// go.
func (p Power) warnings() []string {
	var out []string
	warn := func(a *hclsyntax.Attribute, what string) {
		out = append(out, fmt.Sprintf("%s:%d: %s: %s: %s", p.file, plainhcl.Line(a.NameRange), p.subjects[a.Name], a.Name, what))
	}
	for _, a := range p.body.Attributes {
		v, diags := a.Expr.Value(nil)
		if diags.HasErrors() {
			continue
		}
		text, _ := plainhcl.Scalar(v)
		if a.Name == skipsVerification && text == "true" {
			warn(a, "the power controller's certificate is not verified, so that whoever answers in its place gets the password; set ca_file or fingerprint instead")
		}
		if !namedLikeSecret(a.Name) && !userName.MatchString(a.Name) {
			continue
		}
		if w := secret.Ref(text).Warning(); w != "" {
			warn(a, w)
		}
	}
	return out
}

// String prints the driver and its settings. References are printed,
// credentials are not.
func (p Power) String() string {
	if p.body == nil {
		return "none"
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(p.body.Attributes)) {
		v, diags := p.body.Attributes[key].Expr.Value(nil)
		text, ok := "", false
		if !diags.HasErrors() {
			text, ok = plainhcl.Scalar(v)
		}
		switch {
		case namedLikeSecret(key) && !secret.IsRef(text):
			text = "(redacted)"
		case !ok:
			text = "..." // a list or a map, which may hold anything
		}
		parts = append(parts, key+"="+text)
	}
	return p.Driver + "(" + strings.Join(parts, ", ") + ")"
}

// GoString prints what String prints.
func (p Power) GoString() string { return p.String() }
