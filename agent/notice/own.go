package notice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// word is a notice as an operator, or a program of the operator's, writes it.
type word struct {
	By   time.Time `json:"by"`   // RFC 3339; may be left out
	What string    `json:"what"` // may be left out
}

// parseWord reads a notice in JSON. Nothing at all is one too.
func parseWord(place string, text []byte) ([]Notice, error) {
	var w word
	if text = bytes.TrimSpace(text); len(text) > 0 {
		if err := decode(place, text, &w); err != nil {
			return nil, fmt.Errorf(`%w; write {"by": "2026-01-02T15:04:05Z", "what": "the rack moves"}, or nothing`, err)
		}
	}
	return []Notice{{ID: place, By: w.By.UTC(), What: orElse(clean(w.What), "an operator takes this host away")}}, nil
}

// file is a notice on the host's own disk.
type file struct{ path string }

func newFile(path string) (Source, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("the path must begin with a slash")
	}
	return file{path}, nil
}

// Look returns the notice while the file is there.
func (s file) Look(context.Context) ([]Notice, error) {
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", s.path) // a pipe would never end
	case info.Size() > maxAnswer:
		return nil, fmt.Errorf("%s is larger than %d bytes", s.path, maxAnswer)
	}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseWord(s.path, text)
}

// hook is a notice that a server of the operator's gives.
type hook struct {
	url    string
	client *http.Client
}

func newHook(text string) (Source, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, errors.New("is no URL; write http://HOST/PATH")
	}
	if u.User != nil {
		return nil, errors.New("has a credential in it, which would be printed; let the server know its hosts by their addresses or certificates")
	}
	return &hook{u.String(), client()}, nil
}

// Look returns the notice while the server answers one.
func (s *hook) Look(ctx context.Context) ([]Notice, error) {
	status, text, err := fetch(ctx, s.client, http.MethodGet, s.url, nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNoContent, status == http.StatusNotFound:
		return nil, nil
	case status != http.StatusOK:
		return nil, unexpected(s.url, status)
	}
	return parseWord(s.url, text)
}
