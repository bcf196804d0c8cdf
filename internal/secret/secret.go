// Package secret resolves credentials that a configuration refers to instead
// of holding them: "env:NAME" is an environment variable, "file:PATH" the
// content of a file. Nothing in it ever prints a credential.
package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// Ref is a reference to a credential. It is not secret itself.
type Ref string

// maxFile bounds a credential's file, in bytes.
const maxFile = 64 << 10

// mend ends every refusal of a text that is not a reference.
const mend = `write a reference: "env:NAME" or "file:PATH"`

// later are schemes that people may expect and that do not work.
var later = []string{"nomad-var", "vault"}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Parse reads a reference. It does not look at what the reference points to.
// The error never contains text, which may be a credential written in clear.
func Parse(text string) (Ref, error) {
	scheme, rest, found := strings.Cut(text, ":")
	if !found {
		return "", errors.New("a credential is written in clear; " + mend)
	}
	switch scheme {
	case "env":
		if !envName.MatchString(rest) {
			return "", errors.New(`"env:" is not followed by the name of an environment variable; ` + mend)
		}
	case "file":
		if rest == "" || strings.ContainsRune(rest, 0) {
			return "", errors.New(`"file:" is not followed by a path; ` + mend)
		}
	default:
		for _, s := range later {
			if scheme == s {
				return "", fmt.Errorf(`"%s:" references are not supported yet; let a Nomad template write the credential to a file or a variable and %s`, s, mend)
			}
		}
		return "", errors.New("a credential is written in clear; " + mend)
	}
	return Ref(text), nil
}

// IsRef reports whether text has the scheme of a reference, supported or not.
func IsRef(text string) bool {
	scheme, _, found := strings.Cut(text, ":")
	if !found {
		return false
	}
	for _, s := range append([]string{"env", "file"}, later...) {
		if scheme == s {
			return true
		}
	}
	return false
}

// Resolve reads the credential, anew at each call, so that one that was
// rotated is picked up. A file loses one closing line break. An empty
// credential is an error.
func (r Ref) Resolve() (string, error) {
	if _, err := Parse(string(r)); err != nil {
		return "", err
	}
	scheme, rest, _ := strings.Cut(string(r), ":")
	if scheme == "env" {
		return resolveEnv(rest)
	}
	return resolveFile(rest)
}

func resolveEnv(name string) (string, error) {
	value, found := os.LookupEnv(name)
	switch {
	case !found:
		return "", fmt.Errorf("environment variable %s is not set; set it for the process that reads this file, or use \"file:PATH\"", name)
	case value == "":
		return "", fmt.Errorf("environment variable %s is empty; give it the credential", name)
	}
	return value, nil
}

func resolveFile(path string) (string, error) {
	value, err := readFile(path)
	if err != nil {
		return "", fmt.Errorf("credential file: %w; write the credential to it, for the owner's eyes only", err)
	}
	return value, nil
}

func readFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() { // reading a pipe could take for ever
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(raw) > maxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return value, nil
}

// Warning says what is unsafe about where the credential lies, or nothing.
func (r Ref) Warning() string {
	path, isFile := strings.CutPrefix(string(r), "file:")
	if !isFile {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return ""
	}
	return fmt.Sprintf("credential file %s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
}
