package htmlreport

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// browser is a headless Chromium, spoken to over two pipes by the DevTools
// protocol (https://chromedevtools.github.io/devtools-protocol/): JSON texts,
// each ended by a zero byte.
type browser struct {
	t    *testing.T
	in   *os.File
	cmd  *exec.Cmd
	log  bytes.Buffer // of the browser itself
	next int

	mu      sync.Mutex
	answers map[int]chan reply
	events  []reply
	changed chan struct{} // closed and made anew with each event
	dead    error
}

// reply is an answer to a call, or an event.
type reply struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// patience is how long anything may take before the test gives up on it.
const patience = 60 * time.Second

// chromium is the path of a browser. There is none to skip for: what people
// look at is to be looked at.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("no chromium on PATH: run e2e/tools/packages.sh, or apt-get install chromium")
	return ""
}

// startBrowser starts a browser with a profile of its own and no way to any
// network, and stops it with the test.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := chromium(t)
	fromUs, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, toUs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, in: in, answers: map[int]chan reply{}, changed: make(chan struct{})}
	b.cmd = exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
		"--host-resolver-rules=MAP * ~NOTFOUND", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-default-apps", "--disable-extensions", "--disable-sync", "--hide-scrollbars",
		"--user-data-dir="+filepath.Join(t.TempDir(), "profile"), "about:blank")
	b.cmd.ExtraFiles = []*os.File{fromUs, toUs} // descriptors 3 and 4
	b.cmd.Stderr = &b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := b.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	fromUs.Close()
	toUs.Close()
	t.Cleanup(func() { b.stop(out) })
	go b.read(out)
	return b
}

func (b *browser) stop(out io.Closer) {
	b.mu.Lock()
	dead := b.dead != nil
	b.mu.Unlock()
	exited := make(chan struct{})
	go func() {
		_ = b.cmd.Wait()
		close(exited)
	}()
	fmt.Fprint(b.in, `{"id":0,"method":"Browser.close"}`+"\x00")
	select {
	case <-exited:
	case <-time.After(5 * time.Second):
	}
	// Its children are in its group, and may be about to end by themselves.
	_ = syscall.Kill(-b.cmd.Process.Pid, syscall.SIGKILL)
	<-exited
	b.in.Close()
	out.Close()
	if dead {
		b.t.Logf("the browser's own log:\n%s", b.log.String())
	}
}

// read hands out answers and keeps events until the browser is gone.
func (b *browser) read(out io.Reader) {
	r := bufio.NewReader(out)
	for {
		text, err := r.ReadBytes(0)
		var m reply
		if err == nil {
			err = json.Unmarshal(text[:len(text)-1], &m)
		}
		b.mu.Lock()
		switch {
		case err != nil:
			b.dead = err
			for _, c := range b.answers {
				close(c)
			}
			b.answers = map[int]chan reply{}
		case m.Method != "":
			b.events = append(b.events, m)
		default:
			if c, ok := b.answers[m.ID]; ok {
				c <- m
				delete(b.answers, m.ID)
			}
		}
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// send calls a method and decodes its answer into result, if that is not nil.
func (b *browser) send(session, method string, params, result any) error {
	b.mu.Lock()
	b.next++
	id, answer := b.next, make(chan reply, 1)
	dead := b.dead
	if dead == nil {
		b.answers[id] = answer
	}
	b.mu.Unlock()
	if dead != nil {
		return fmt.Errorf("%s: the browser is gone: %w", method, dead)
	}
	call := map[string]any{"id": id, "method": method, "params": params}
	if params == nil {
		call["params"] = struct{}{}
	}
	if session != "" {
		call["sessionId"] = session
	}
	text, err := json.Marshal(call)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return fmt.Errorf("%s: the browser is gone", method)
		case m.Error != nil:
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(m.Result, result)
	case <-time.After(patience):
		return fmt.Errorf("%s: no answer in %s", method, patience)
	}
}

// tab is an open page.
type tab struct {
	*browser
	session string
}

// open makes an empty page that reports what goes wrong in it.
func (b *browser) open() *tab {
	b.t.Helper()
	var target struct{ TargetID string }
	b.must(b.send("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target))
	var attached struct{ SessionID string }
	b.must(b.send("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached))
	p := &tab{b, attached.SessionID}
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		p.call(domain+".enable", nil, nil)
	}
	return p
}

func (b *browser) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (p *tab) call(method string, params map[string]any, result any) {
	p.t.Helper()
	p.must(p.send(p.session, method, params, result))
}

// screen sets the size of the page and what it is shown on: "screen" or
// "print", and "light" or "dark".
func (p *tab) screen(width int, media, scheme string) {
	p.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	p.call("Emulation.setEmulatedMedia", map[string]any{"media": media,
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// load opens a file and waits until it is shown.
func (p *tab) load(path string) {
	p.t.Helper()
	p.forget()
	p.call("Page.navigate", map[string]any{"url": "file://" + path}, nil)
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		changed, done := p.changed, p.dead != nil
		for _, e := range p.events {
			done = done || e.Method == "Page.loadEventFired"
		}
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			p.t.Fatalf("%s did not load in %s", path, patience)
		}
	}
}

func (p *tab) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = nil
}

// eval runs a script in the page and decodes what it returns.
func (p *tab) eval(script string, result any) {
	p.t.Helper()
	var out struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	p.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true, "awaitPromise": true}, &out)
	if e := out.ExceptionDetails; e != nil {
		p.t.Fatalf("script failed: %s %s", e.Text, e.Exception.Description)
	}
	if result != nil {
		p.must(json.Unmarshal(out.Result.Value, result))
	}
}

// complaints is every console message, exception and browser message of the
// page, and every address that it asked for beside itself.
func (p *tab) complaints() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, e := range p.events {
		switch e.Method {
		case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded":
			errs = append(errs, fmt.Errorf("%s: %s", e.Method, e.Params))
		case "Network.requestWillBeSent":
			var r struct {
				Type    string
				Request struct{ URL string }
			}
			_ = json.Unmarshal(e.Params, &r)
			if r.Type != "Document" || !strings.HasPrefix(r.Request.URL, "file://") {
				errs = append(errs, fmt.Errorf("asked for %s", r.Request.URL))
			}
		}
	}
	return errors.Join(errs...)
}

// shoot keeps a picture of the whole page for people to look at, where go test
// was given -artifacts.
func (p *tab) shoot(name string) {
	p.t.Helper()
	if f := flag.Lookup("test.artifacts"); f == nil || f.Value.String() != "true" {
		return
	}
	var size struct {
		CSSContentSize struct{ Width, Height float64 }
	}
	p.call("Page.getLayoutMetrics", nil, &size)
	var shot struct{ Data []byte }
	p.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true, "clip": map[string]any{
		"x": 0, "y": 0, "width": size.CSSContentSize.Width, "height": size.CSSContentSize.Height, "scale": 1}}, &shot)
	p.must(os.WriteFile(filepath.Join(p.t.ArtifactDir(), name+".png"), shot.Data, 0o644))
}
