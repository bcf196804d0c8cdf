package htmlreport

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpupool/gpupool/internal/sim"
)

// TestInBrowser looks at the report in a real browser.
func TestInBrowser(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	page := b.open()
	file := save(t, sample(), Options{Command: "gpupool simulate --front --html report.html"})

	for _, s := range []struct {
		width         int
		media, scheme string
	}{
		{1280, "screen", "light"}, {1280, "screen", "dark"},
		{360, "screen", "light"}, {360, "screen", "dark"},
		{794, "print", "dark"}, // an A4 page, printed by somebody with a dark desktop
	} {
		name := fmt.Sprintf("%s-%s-%d", s.media, s.scheme, s.width)
		page.screen(s.width, s.media, s.scheme)
		page.load(file)
		page.shoot(name)
		if err := page.complaints(); err != nil {
			t.Errorf("%s: the console is not empty:\n%v", name, err)
		}
		var wide []string
		page.eval(tooWide, &wide)
		if len(wide) > 0 {
			t.Errorf("%s: the page scrolls sideways, because of %s", name, strings.Join(wide, ", "))
		}
		var faint []string
		page.eval(tooFaint, &faint)
		if len(faint) > 0 {
			t.Errorf("%s: too little contrast:\n%s", name, strings.Join(faint, "\n"))
		}
		var dark bool
		page.eval(`(() => { const c = getComputedStyle(document.body).backgroundColor.match(/\d+/g); return c[0] < 80; })()`, &dark)
		if want := s.scheme == "dark" && s.media == "screen"; dark != want {
			t.Errorf("%s: a dark page: %t, want %t", name, dark, want)
		}
	}

	page.screen(1280, "screen", "light")
	page.load(file)
	t.Run("cursor", func(t *testing.T) { testCursor(t, page) })
	t.Run("disclosure", func(t *testing.T) { testDisclosure(t, page) })
	t.Run("sorting", func(t *testing.T) { testSorting(t, page) })
	if err := page.complaints(); err != nil {
		t.Errorf("the console is not empty after use:\n%v", err)
	}
	t.Run("hostile names", func(t *testing.T) { testHostile(t, page) })
	t.Run("no script", func(t *testing.T) { testNoScript(t, page, file) })
}

// tooWide names what reaches over the right edge of the page, unless it is in
// a box that scrolls by itself.
const tooWide = `(() => {
  const edge = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= edge && innerWidth <= edge + 1) return [];
  return [...document.body.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > edge + 1 && !e.closest("svg *"))
    .filter((e) => { for (let p = e.parentElement; p; p = p.parentElement) if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return false; return true; })
    .map((e) => e.tagName + "." + (e.className.baseVal ?? e.className)).slice(0, 8)
    .concat("scrollWidth " + document.documentElement.scrollWidth + " of " + edge);
})()`

// tooFaint lists texts whose contrast with what is behind them is below that
// of WCAG 2.2, success criterion 1.4.3.
const tooFaint = `(() => {
  const rgba = (s) => {
    const m = s.match(/^rgba?\(([^)]*)\)/);
    if (m) { const v = m[1].split(/[ ,/]+/).map(Number); return [v[0], v[1], v[2], v[3] ?? 1]; }
    const c = s.match(/^color\(srgb ([^)]*)\)/);
    if (c) { const v = c[1].split(/[ /]+/).map(Number); return [255 * v[0], 255 * v[1], 255 * v[2], v[3] ?? 1]; }
    return [0, 0, 0, 0];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const lum = (c) => {
    const f = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2];
  };
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, c) => over(c, under), [255, 255, 255, 1]);
  };
  const out = [];
  for (const e of document.body.querySelectorAll("*")) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text || !e.checkVisibility() || e.closest(".sr, script, title")) continue;
    const style = getComputedStyle(e);
    const fore = rgba(e instanceof SVGElement ? style.fill : style.color);
    const back = behind(e);
    const [a, b] = [lum(over(fore, back)), lum(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) out.push(ratio.toFixed(2) + " " + e.tagName + " " + text.slice(0, 40));
  }
  return out;
})()`

// testCursor points at one figure and reads them all.
func testCursor(t *testing.T, page *tab) {
	var at struct{ X, Y float64 }
	page.eval(`(() => {
	  const plot = document.querySelector("details[open] .chart .plot");
	  plot.scrollIntoView();
	  const r = plot.getBoundingClientRect();
	  return {x: r.left + r.width / 2, y: r.top + r.height / 2};
	})()`, &at)
	page.call("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": at.X, "y": at.Y}, nil)
	var read []string
	const texts = `[...document.querySelectorAll("details[open] .read")].map((e) => e.textContent).filter(Boolean)`
	page.eval(texts, &read)
	if len(read) != 2 {
		t.Fatalf("pointing at a figure reads %d figures out, want those of both open policies: %q", len(read), read)
	}
	for _, text := range read {
		if !strings.Contains(text, "day 4") || !strings.Contains(text, "12:00") || !strings.Contains(text, "needs") {
			t.Errorf("the middle of the week reads %q, want day 4 at 12:00", text)
		}
	}
	page.eval(`document.querySelector("details[open] .chart").focus()`, nil)
	before := read[0]
	page.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "ArrowRight"}, nil)
	page.eval(texts, &read)
	if len(read) != 2 || read[0] == before {
		t.Errorf("the arrow key did not move the cursor: %q", read)
	}
	page.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "Escape"}, nil)
	page.eval(texts, &read)
	if len(read) != 0 {
		t.Errorf("escape left %q", read)
	}
}

// testDisclosure opens a policy that is closed at first.
func testDisclosure(t *testing.T, page *tab) {
	const state = `[...document.querySelectorAll("details.pol")].map((e) => [e.querySelector(".who").textContent, e.open, e.querySelector(".plot").checkVisibility()].join(" "))`
	var got []string
	page.eval(state, &got)
	want := []string{"predictive true true", "tracking-queue true true", "static-peak false false", "hpa false false"}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("at first: %v, want %v", got, want)
	}
	page.eval(`document.querySelectorAll("details.pol summary")[2].click()`, nil)
	page.eval(state, &got)
	if got[2] != "static-peak true true" {
		t.Errorf("after a click: %v", got)
	}
}

func testSorting(t *testing.T, page *tab) {
	const names = `[...document.querySelectorAll("table.kpi tbody th")].map((e) => e.lastChild.textContent)`
	var got []string
	page.eval(names, &got)
	if want := "predictive static-peak hpa tracking-queue"; strings.Join(got, " ") != want {
		t.Errorf("at first the table has %v, want %s", got, want)
	}
	page.eval(`document.querySelectorAll("table.kpi thead button")[2].click()`, nil)
	page.eval(names, &got)
	if want := "hpa tracking-queue predictive static-peak"; strings.Join(got, " ") != want {
		t.Errorf("by GPU-hours the table has %v, want %s", got, want)
	}
	page.eval(`document.querySelectorAll("table.kpi thead button")[2].click()`, nil)
	page.eval(names, &got)
	if got[0] != "static-peak" {
		t.Errorf("downwards by GPU-hours the table begins with %s, want static-peak", got[0])
	}
}

// testHostile shows names that are programs; they must stay names.
func testHostile(t *testing.T, page *tab) {
	r, command := hostile()
	page.load(save(t, r, Options{Command: command}))
	if err := page.complaints(); err != nil {
		t.Errorf("the console is not empty:\n%v", err)
	}
	var got struct {
		Owned         bool
		Who, Pre      string
		Images, Extra int
	}
	page.eval(`({owned: "owned" in window, who: document.querySelector(".ladder .who").textContent,
	  pre: document.querySelector("pre").textContent, images: document.querySelectorAll("img").length,
	  extra: document.scripts.length - 2})`, &got)
	if got.Owned || got.Images != 0 || got.Extra != 0 {
		t.Errorf("a name became part of the page: %+v", got)
	}
	if got.Who != r.Policies[0].Name || got.Pre != command {
		t.Errorf("the names read %q and %q, want %q and %q", got.Who, got.Pre, r.Policies[0].Name, command)
	}
	page.screen(360, "screen", "light")
	var wide []string
	page.eval(tooWide, &wide)
	if len(wide) > 0 {
		t.Errorf("long names make the page scroll sideways: %s", strings.Join(wide, ", "))
	}
}

// testNoScript shows that the report is whole where no script runs.
func testNoScript(t *testing.T, page *tab, file string) {
	page.screen(1280, "screen", "light")
	page.call("Emulation.setScriptExecutionDisabled", map[string]any{"value": true}, nil)
	page.load(file)
	page.shoot("no-script")
	var root struct{ Root struct{ NodeID int } }
	page.call("DOM.getDocument", nil, &root)
	find := func(selector string) int {
		var found struct{ NodeIDs []int }
		page.call("DOM.querySelectorAll", map[string]any{"nodeId": root.Root.NodeID, "selector": selector}, &found)
		return len(found.NodeIDs)
	}
	if find("html.scripted") != 0 || find("thead button") != 0 {
		t.Fatal("the script ran although it was turned off")
	}
	for selector, least := range map[string]int{"details[open] .plot path": 10, ".front .own": 8, "table.kpi tbody tr": 4, ".ladder li": 4} {
		if n := find(selector); n < least {
			t.Errorf("%d of %s, want at least %d", n, selector, least)
		}
	}
}

// save writes a report to a file of the test's own.
func save(t *testing.T, r *sim.Report, o Options) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(f, r, o); err != nil {
		t.Fatal(err)
	}
	return path
}
