// Package setting reads typed settings from text: durations with a unit,
// numbers with a range, words from a list. Each setting is declared once, at
// the place where it is read, with its default, its rules and one sentence for
// people; the reference pages are printed from the same declarations.
//
//	r := setting.NewReader(setting.Place{Subject: `pool "h100"`}, given)
//	p.BootTimeout = r.Duration("boot_timeout", 15*time.Minute,
//		"How long a host may take to boot.", setting.Between(time.Second, 24*time.Hour))
//	r.Finish(nil)
//	return p, r.Problems().Err()
//
// Reading never stops at a mistake: a setting that cannot be read has its
// default, and [Reader.Problems] has all mistakes.
package setting

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpupool/gpupool/internal/secret"
)

// Given is the text of one setting as somebody wrote it.
type Given struct {
	Text string
	Line int // in its file; 0 if there is none

	// Rejected says that its mistake was reported already: the setting has
	// its default and nothing more is said of it.
	Rejected bool
}

// Place says where settings are, for error messages.
type Place struct {
	Subject string // what they are settings of: `pool "h100"`
	File    string // may be empty
	Line    int    // where something is missing; 0 if not known
}

// Field is a setting as it was declared, for reference pages.
type Field struct {
	Key      string
	Type     string // "duration", "one of a, b", ...
	Rules    string // "1s to 24h", or empty
	Required bool
	Default  string // empty if there is none
	Doc      string

	defaultInWords bool
}

// Reader reads the settings of one subject. Not safe for concurrent use.
type Reader struct {
	place    Place
	given    map[string]Given
	fields   []Field
	problems Problems
}

// NewReader returns a reader of what was given in one place.
func NewReader(place Place, given map[string]Given) *Reader {
	return &Reader{place: place, given: given}
}

// Fields returns what was declared so far, in the order of declaration.
func (r *Reader) Fields() []Field { return r.fields }

// DefaultIs says in words what the default of a key is, for reference pages,
// where it depends on something else.
func (r *Reader) DefaultIs(key, words string) {
	for i := range r.fields {
		if f := &r.fields[i]; f.Key == key {
			f.Default, f.defaultInWords, f.Required = words, true, false
		}
	}
}

// Problems returns the mistakes found so far.
func (r *Reader) Problems() Problems { return r.problems }

// Reject records a mistake about a key that only the caller can see, such as
// one between two settings.
func (r *Reader) Reject(key, what, mend string) {
	line := r.place.Line
	if g, found := r.given[key]; found {
		line = g.Line
	}
	r.problems = append(r.problems, Problem{
		File: r.place.File, Line: line, Subject: r.place.Subject, Key: shorten(key), What: what, Mend: mend,
	})
}

// Finish records every given key that was not declared as a mistake, save for
// those that ignore, if not nil, reports true for. Values of unknown keys are
// not printed: one may be a password whose key is misspelt.
func (r *Reader) Finish(ignore func(key string) bool) {
	var known []string
	for _, f := range r.fields {
		known = append(known, f.Key)
	}
	var unknown []string
	for key := range r.given {
		if !slices.Contains(known, key) && (ignore == nil || !ignore(key)) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		r.Reject(key, "there is no such setting", Suggest(key, known))
	}
}

// Rule is a condition on a value. A setting whose default breaks one of its
// own rules is a required setting.
type Rule[T any] struct {
	Text string // what holds: "1 to 10"
	OK   func(T) bool
}

// Between allows lo to hi, both included.
func Between[T cmp.Ordered](lo, hi T) Rule[T] {
	return Rule[T]{show(lo) + " to " + show(hi), func(v T) bool { return v >= lo && v <= hi }}
}

// AtLeast allows lo and more.
func AtLeast[T cmp.Ordered](lo T) Rule[T] {
	return Rule[T]{"at least " + show(lo), func(v T) bool { return v >= lo }}
}

// NotEmpty allows any text but none.
func NotEmpty() Rule[string] {
	return Rule[string]{"not empty", func(v string) bool { return v != "" }}
}

// Fraction is a part of a whole, 0 to 1, written in percent.
type Fraction float64

func (f Fraction) String() string {
	percent := math.Round(100*float64(f)*1e9) / 1e9 // 100 * 0.07 is not 7
	return strconv.FormatFloat(percent, 'f', -1, 64) + "%"
}

// Size is a number of bytes, written with a unit.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(s)/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}

// Watts is electrical power, written with a unit.
type Watts float64

func (w Watts) String() string {
	if w >= 1000 {
		return strconv.FormatFloat(float64(w)/1000, 'f', -1, 64) + "kW"
	}
	return strconv.FormatFloat(float64(w), 'f', -1, 64) + "W"
}

// String reads a text.
func (r *Reader) String(key, def, doc string, rules ...Rule[string]) string {
	return read(r, Field{Key: key, Type: "text", Doc: doc}, def, rules, func(s string) (string, error) {
		return s, nil
	})
}

// OneOf reads one of several words.
func (r *Reader) OneOf(key, def, doc string, words ...string) string {
	rule := Rule[string]{"", func(v string) bool { return slices.Contains(words, v) }}
	f := Field{Key: key, Type: "one of " + strings.Join(words, ", "), Doc: doc}
	return read(r, f, def, []Rule[string]{rule}, func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", fmt.Errorf("is none of %s; %s", strings.Join(words, ", "), Suggest(s, words))
		}
		return s, nil
	})
}

// Duration reads a duration with a unit: "90s", "15m", "36h".
func (r *Reader) Duration(key string, def time.Duration, doc string, rules ...Rule[time.Duration]) time.Duration {
	return read(r, Field{Key: key, Type: "duration", Doc: doc}, def, rules, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err == nil && s != "0" {
			return d, nil
		}
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			return 0, fmt.Errorf("has no unit; write %q, %q or %q", s+"s", s+"m", s+"h")
		}
		return 0, fmt.Errorf("is no duration; write a number with a unit, such as %q", show(orElse(def, time.Minute)))
	})
}

// Int reads a whole number.
func (r *Reader) Int(key string, def int, doc string, rules ...Rule[int]) int {
	return read(r, Field{Key: key, Type: "whole number", Doc: doc}, def, rules, func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("is no whole number; write one, such as %d", orElse(def, 1))
		}
		return n, nil
	})
}

// Float reads a number.
func (r *Reader) Float(key string, def float64, doc string, rules ...Rule[float64]) float64 {
	return read(r, Field{Key: key, Type: "number", Doc: doc}, def, rules, func(s string) (float64, error) {
		return finite(s, "write a number, such as "+show(orElse(def, 1.5)))
	})
}

// Fraction reads a percentage: "85%" is 0.85.
func (r *Reader) Fraction(key string, def Fraction, doc string, rules ...Rule[Fraction]) Fraction {
	return read(r, Field{Key: key, Type: "percentage", Doc: doc}, def, rules, func(s string) (Fraction, error) {
		mend := fmt.Sprintf("write a number with a percent sign, such as %q", show(orElse(def, 0.85)))
		number, found := strings.CutSuffix(s, "%")
		if !found {
			return 0, fmt.Errorf("has no percent sign; %s", mend)
		}
		f, err := finite(number, mend)
		return Fraction(f / 100), err
	})
}

// Size reads a number of bytes with a unit: "64MiB", "10MB".
func (r *Reader) Size(key string, def Size, doc string, rules ...Rule[Size]) Size {
	return read(r, Field{Key: key, Type: "size", Doc: doc}, def, rules, func(s string) (Size, error) {
		for _, u := range sizeUnits {
			number, found := strings.CutSuffix(s, u.name)
			if !found {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
			if err == nil && n >= 0 && n <= math.MaxInt64/u.bytes {
				return Size(n * u.bytes), nil
			}
			break
		}
		return 0, fmt.Errorf("is no size; write a whole number with a unit, such as %q", show(orElse(def, 64<<20)))
	})
}

// Watts reads electrical power with a unit: "800W", "12.5kW".
func (r *Reader) Watts(key string, def Watts, doc string, rules ...Rule[Watts]) Watts {
	return read(r, Field{Key: key, Type: "electrical power", Doc: doc}, def, rules, func(s string) (Watts, error) {
		mend := fmt.Sprintf("write a number with a unit, such as %q", show(orElse(def, 800)))
		factor := 1.0
		number, found := strings.CutSuffix(s, "kW")
		if found {
			factor = 1000
		} else if number, found = strings.CutSuffix(s, "W"); !found {
			return 0, fmt.Errorf("has no unit, which is W or kW; %s", mend)
		}
		w, err := finite(number, mend)
		return Watts(w * factor), err
	})
}

// Bool reads true or false.
func (r *Reader) Bool(key string, def bool, doc string) bool {
	return read(r, Field{Key: key, Type: "true or false", Doc: doc}, def, nil, func(s string) (bool, error) {
		switch s {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return false, errors.New("is neither true nor false; write one of them")
	})
}

// List reads words separated by commas. Each must be there once.
func (r *Reader) List(key string, def []string, doc string, rules ...Rule[[]string]) []string {
	return read(r, Field{Key: key, Type: "comma-separated list", Doc: doc}, def, rules, func(s string) ([]string, error) {
		var out []string
		for word := range strings.SplitSeq(s, ",") {
			word = strings.TrimSpace(word)
			if word == "" {
				return nil, errors.New("has an empty part; separate words by one comma")
			}
			if slices.Contains(out, word) {
				return nil, fmt.Errorf("names %q twice; name it once", word)
			}
			out = append(out, word)
		}
		return out, nil
	})
}

// URL reads an HTTP URL. A URL with a password in it is refused, because URLs
// are printed.
func (r *Reader) URL(key, def, doc string, rules ...Rule[string]) string {
	return read(r, Field{Key: key, Type: "URL", Doc: doc}, def, rules, func(s string) (string, error) {
		u, err := url.Parse(s)
		if err == nil && u.User != nil {
			return "", hidden("has a user name or password in it; give it by a setting of its own")
		}
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return "", hidden(`is no URL; write one, such as "http://127.0.0.1:8500"`)
		}
		return s, nil
	})
}

// Secret reads a reference to a credential, such as "env:NAME", and checks
// that it can be resolved now. The credential itself is not kept: resolve the
// reference where it is used.
func (r *Reader) Secret(key, doc string) secret.Ref {
	return read(r, Field{Key: key, Type: "reference to a credential", Doc: doc}, "", nil, func(s string) (secret.Ref, error) {
		ref, err := secret.Parse(s)
		if err == nil {
			_, err = ref.Resolve()
		}
		if err != nil {
			return "", hidden(err.Error())
		}
		return ref, nil
	})
}

// hidden is a parser's error about a value that must not be printed.
type hidden string

func (h hidden) Error() string { return string(h) }

// read is the one way in: it declares the setting, parses it if it is given,
// and checks the rules.
func read[T any](r *Reader, f Field, def T, rules []Rule[T], parse func(string) (T, error)) T {
	var texts []string
	broken := false
	for _, rule := range rules {
		if rule.Text != "" {
			texts = append(texts, rule.Text)
		}
		broken = broken || !rule.OK(def)
	}
	f.Rules = strings.Join(texts, ", ")
	if f.Required = broken; !broken {
		f.Default = show(def)
	}
	r.fields = append(r.fields, f)

	g, found := r.given[f.Key]
	if !found {
		if broken {
			r.Reject(f.Key, "is required and not there", "add it: "+f.want())
		}
		return def
	}
	if g.Rejected {
		return def
	}
	if len(g.Text) > maxText {
		r.Reject(f.Key, fmt.Sprintf("has %d bytes", len(g.Text)), fmt.Sprintf("%d are allowed", maxText))
		return def
	}
	v, err := parse(strings.TrimSpace(g.Text))
	if err != nil {
		what, mend, _ := strings.Cut(err.Error(), "; ")
		if secretive := hidden(""); !errors.As(err, &secretive) {
			what = quote(g.Text) + " " + what
		}
		r.Reject(f.Key, what, mend)
		return def
	}
	for _, rule := range rules {
		if !rule.OK(v) {
			r.Reject(f.Key, quote(g.Text)+" is not allowed", "it must be "+orElse(rule.Text, f.Type))
			return def
		}
	}
	return v
}

// want says in words what a field holds.
func (f Field) want() string {
	if f.Rules == "" {
		return f.Type
	}
	return f.Type + ", " + f.Rules
}

func finite(s, mend string) (float64, error) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, fmt.Errorf("is no number; %s", mend)
	}
	return f, nil
}

// orElse returns v, or other if v is the zero value.
func orElse[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

// show writes a value as it would be written in a configuration.
func show(v any) string {
	switch v := v.(type) {
	case time.Duration:
		s := v.String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []string:
		return strings.Join(v, ",")
	default:
		return fmt.Sprint(v)
	}
}

// maxText bounds the text of one setting, in bytes.
const maxText = 16 << 10

// quote quotes a value for a message.
func quote(s string) string { return strconv.Quote(shorten(s)) }

// shorten keeps a message readable when somebody wrote a novel.
func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
