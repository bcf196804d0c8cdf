// What this adds is comfort: without it the report is complete.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("scripted");

  // A cursor over all open figures of the same part of the run.
  const source = document.getElementById("data");
  const data = source ? JSON.parse(source.textContent) : null;
  const charts = [...document.querySelectorAll(".chart")];
  const pad = (n) => String(n).padStart(2, "0");
  const names = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
  const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const say = (v) => v.toLocaleString("en", { maximumFractionDigits: 1 });

  function time(ms) {
    const t = new Date(ms);
    const day = data.counted
      ? `${names[t.getUTCDay()]}, day ${Math.floor((ms - data.start) / 864e5) + 1}`
      : `${names[t.getUTCDay()]} ${t.getUTCDate()} ${months[t.getUTCMonth()]}`;
    return `${day}, ${pad(t.getUTCHours())}:${pad(t.getUTCMinutes())}`;
  }

  let at = -1;
  let part = "";

  function show(w, i, speak) {
    const d = data.windows[w];
    at = Math.max(0, Math.min(d.need.length - 1, i));
    part = w;
    const left = `${(100 * (at + 0.5)) / d.need.length}%`;
    for (const chart of charts) {
      const here = chart.dataset.w === w;
      for (const plot of chart.querySelectorAll(".plot")) {
        let line = plot.querySelector(".cursor");
        if (!line) {
          line = plot.appendChild(document.createElement("span"));
          line.className = "cursor";
        }
        line.hidden = !here;
        line.style.left = left;
      }
      const read = chart.querySelector(".read");
      const p = d.policies[chart.dataset.p];
      const text = `${time(d.start + at * d.step)} · needs ${say(d.need[at])} · ready ${say(p.ready[at])} · paid ${say(p.billed[at])} · waiting ${say(p.waiting[at])}`;
      read.textContent = here ? text : "";
      if (speak === chart) chart.setAttribute("aria-label", text);
    }
  }

  function hide() {
    at = -1;
    for (const e of document.querySelectorAll(".cursor")) e.hidden = true;
    for (const e of document.querySelectorAll(".read")) e.textContent = "";
  }

  if (data) {
    for (const chart of charts) {
      const w = chart.dataset.w;
      const n = data.windows[w].need.length;
      const plot = chart.querySelector(".plot");
      const point = (e) => {
        const r = plot.getBoundingClientRect();
        show(w, Math.floor((n * (e.clientX - r.left)) / r.width), null);
      };
      chart.addEventListener("pointermove", point);
      chart.addEventListener("pointerdown", point);
      chart.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") hide(); });
      chart.tabIndex = 0;
      chart.setAttribute("role", "group");
      chart.addEventListener("keydown", (e) => {
        const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -24, PageDown: 24 }[e.key];
        if (e.key === "Escape") return hide();
        if (!by) return;
        e.preventDefault();
        show(w, at < 0 || part !== w ? Math.floor(n / 2) : at + by * (e.shiftKey ? 10 : 1), chart);
      });
    }
  }

  // Sorting of the table.
  for (const table of document.querySelectorAll("table.kpi")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const h of table.tHead.rows[0].cells) h.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[k].dataset.v;
        const rows = [...body.rows].sort((a, b) =>
          k === 0 ? a.cells[0].textContent.localeCompare(b.cells[0].textContent) : value(a) - value(b));
        if (down) rows.reverse();
        body.append(...rows);
      });
    });
  }

  // Copying the command.
  for (const box of document.querySelectorAll(".cmd")) {
    if (!navigator.clipboard) break;
    const button = box.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(box.querySelector("code").textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box.querySelector("code"));
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
