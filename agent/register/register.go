<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{{.CSP}}">
<title>{{.Title}} – gpupool simulate</title>
<style>
{{.Style}}
</style>
</head>
<body>
{{- define "check"}}<svg class="ic" viewBox="0 0 12 12" aria-hidden="true"><path d="M2 6.5l2.8 2.8L10 3.5"/></svg>{{end}}
{{- define "cross"}}<svg class="ic" viewBox="0 0 12 12" aria-hidden="true"><path d="M3 3l6 6M9 3l-6 6"/></svg>{{end}}
<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false">
<defs>
<pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="scale(1.3 4) rotate(45)"><rect width="7" height="7" class="hatch-bg"/><rect width="3" height="7" class="hatch-fg"/></pattern>
{{- with .Time}}{{range .Windows}}
<path id="need{{.ID}}" d="{{.Need}}"/>
<path id="line{{.ID}}" d="{{.NeedLine}}"/>
{{- end}}{{end}}
</defs>
</svg>

<header class="top">
<p class="over"><span class="brand">gpupool simulate</span> <span class="trace">{{.Trace.Name}}</span></p>
<h1>{{with .Verdict}}{{.Before}}{{with .Who}}<em>{{.}}</em>{{end}}{{.After}}{{end}}</h1>
<p class="lead">{{range .Verdict.Says}}{{.}} {{end}}</p>
{{- with .Time}}{{with index .Windows 0}}
<figure class="ribbon">
<svg viewBox="0 {{.NeedTop}} 1440 {{.NeedHeight}}" preserveAspectRatio="none" aria-hidden="true"><use href="#need0"/></svg>
<figcaption>{{$.Trace.Says}}</figcaption>
</figure>
{{- end}}{{else}}
<p class="says">{{.Trace.Says}}</p>
{{- end}}
</header>

<main>
<section aria-labelledby="h-cost">
<h2 id="h-cost">What each policy costs</h2>
<ul class="key">
<li><i class="sw busy"></i>slots that were busy</li>
<li><i class="sw idle"></i>paid, but not busy</li>
{{- if .Ladder.Wear}}<li><i class="sw wear"></i>wear of starts</li>{{end}}
{{- if .Ladder.Bound}}<li><i class="sw bound"></i>lower bound, with the future known: {{.Ladder.BoundSays}}</li>{{end}}
</ul>
<ol class="ladder">
{{- range .Ladder.Rungs}}
<li class="{{if .Best}}best {{end}}{{if .Met}}met{{else}}missed{{end}}" title="{{.Title}}">
<span class="who">{{.Name}}</span>
<span class="bar"><span class="busy" style="width:{{.Busy}}%"></span><span class="idle" style="width:{{.Idle}}%"></span><span class="wear" style="width:{{.Wear}}%"></span>{{if $.Ladder.Bound}}<span class="bound" style="left:{{$.Ladder.Bound}}%"></span>{{end}}</span>
<span class="sum">{{.Cost}}</span>
<span class="ontime">{{if .Met}}{{template "check"}}{{else}}{{template "cross"}}{{end}}<span class="sr">{{if .Met}}keeps{{else}}misses{{end}} the goal: </span>{{.OnTime}} <small>on time</small></span>
</li>
{{- end}}
</ol>
</section>

{{with .Time}}
<section aria-labelledby="h-time">
<h2 id="h-time">Demand and capacity over time</h2>
<ul class="key">
<li><i class="sw need"></i>work that arrives, and finds ready replicas</li>
<li><i class="sw short"></i>work that arrives, and does not</li>
<li><i class="sw paid"></i>paid beyond that: spare, starting, draining</li>
<li><i class="sw ready"></i>replicas ready</li>
<li><i class="sw wait"></i>requests waiting, on a square-root scale</li>
</ul>
<p class="hint">Open the policies to compare. A replica is equally high in all of them.<span class="js"> Point at a figure, or focus it and use the arrow keys, to read all of them at that time.</span></p>
{{- range .Policies}}
<details class="pol"{{if .Open}} open{{end}}>
<summary><span class="who">{{.Name}}</span><span class="about">{{.About}}</span><span class="fig {{if .Met}}met{{else}}missed{{end}}">{{if .Met}}{{template "check"}}{{else}}{{template "cross"}}{{end}}<span class="sr">{{if .Met}}keeps{{else}}misses{{end}} the goal: </span>{{.OnTime}}{{if .Ratio}} <span class="mut">at</span> {{.Ratio}}×{{end}}</span></summary>
{{- $p := .}}{{range .Charts}}{{$w := .Window}}
<figure class="chart" data-w="{{$w.ID}}" data-p="{{$p.ID}}">
<figcaption>{{$w.Title}}</figcaption>
<div class="read" aria-hidden="true"></div>
<div class="plot main" style="--tall:{{.Tall}}">
<svg viewBox="0 {{.Above}} 1440 {{.Height}}" preserveAspectRatio="none" role="img" aria-label="{{.Alt}}">
<path class="paid" d="{{.Billed}}"/>
<use class="short" href="#need{{$w.ID}}"/>
<path class="need" d="{{.Covered}}"/>
<use class="needline" href="#line{{$w.ID}}"/>
<path class="ready" d="{{.Ready}}"/>
</svg>
{{- range .YTicks}}<span class="yt" style="bottom:{{.At}}%"><b>{{.Label}}</b></span>{{end}}
{{- if $w.Warmup}}<span class="warm" style="width:{{$w.Warmup}}%"><b>not scored</b></span>{{end}}
</div>
<div class="plot back">
<svg viewBox="0 0 1440 240" preserveAspectRatio="none" aria-hidden="true">
<path class="waiting" d="{{.Waiting}}"/>
</svg>
{{- range $w.WaitTick}}<span class="yt" style="bottom:{{.At}}%"><b>{{.Label}}</b></span>{{end}}
</div>
<div class="xaxis" aria-hidden="true">{{range $w.XTicks}}<span{{if .Minor}} class="minor"{{end}} style="left:{{.At}}%">{{.Label}}</span>{{end}}</div>
</figure>
{{- end}}
</details>
{{- end}}
</section>
{{end}}

{{- define "front"}}
<clipPath id="plot-{{.ID}}"><rect x="{{.Left}}" y="{{.Top}}" width="{{.ZoneW}}" height="{{.PlotH}}"/></clipPath>
<rect class="zone" x="{{.Left}}" y="{{.Top}}" width="{{.ZoneW}}" height="{{.ZoneH}}"/>
{{- $f := .}}
{{- range .YTicks}}<line class="grid" x1="{{$f.Left}}" x2="{{$f.Right}}" y1="{{.At}}" y2="{{.At}}"/><text class="tick" x="{{$f.TickX}}" y="{{.At}}" dy=".35em" text-anchor="end">{{.Label}}</text>{{end}}
{{- range .XTicks}}<line class="grid" x1="{{.At}}" x2="{{.At}}" y1="{{$f.Top}}" y2="{{$f.Bottom}}"/><text class="tick" x="{{.At}}" y="{{$f.TickY}}" text-anchor="middle">{{.Label}}</text>{{end}}
<text class="axis" x="{{.Right}}" y="{{.TitleY}}" text-anchor="end">{{.XTitle}}</text>
<line class="goal" x1="{{.Left}}" x2="{{.Right}}" y1="{{.Goal}}" y2="{{.Goal}}"/>
<text class="goal" x="{{.Right}}" y="{{.Goal}}" dx="-4" dy="1.25em" text-anchor="end">{{.GoalLabel}}</text>
{{- if .BoundX}}<line class="bound" x1="{{.BoundX}}" x2="{{.BoundX}}" y1="{{.Top}}" y2="{{.Goal}}"/><text class="bound" transform="translate({{.BoundX}} {{.Top}}) rotate(90)" dx="2" dy="-.4em">lower bound</text>{{end}}
{{- range .Lines}}<g class="fl {{.Class}} {{if .Met}}met{{else}}missed{{end}}">{{if .Path}}<path class="sweep" clip-path="url(#plot-{{$f.ID}})" d="{{.Path}}"/>{{end}}
{{- range .Dots}}<circle cx="{{.X}}" cy="{{.Y}}" r="2.5"><title>{{.Title}}</title></circle>{{end}}
{{- if .Lead}}<path class="leader" d="{{.Lead}}"/>{{end}}<circle class="own" cx="{{.X}}" cy="{{.Y}}" r="5.5"><title>{{.Title}}</title></circle><text x="{{.LabelX}}" y="{{.LabelY}}" text-anchor="{{.Anchor}}">{{.Label}}</text></g>
{{- end}}
{{- end}}
{{with .Front}}
<section aria-labelledby="h-front">
<h2 id="h-front">Cost against lateness</h2>
<p class="hint">Up and to the left is better. A large point is a policy as it comes{{if .Swept}}; the small points on its line are the same policy with its one knob turned{{end}}. Full points keep the goal, hollow ones do not. Each step up the axis is fewer late requests.</p>
{{- with .Wide}}
<svg class="front wide" viewBox="0 0 {{.W}} {{.H}}" role="img" aria-label="{{.Alt}}">{{template "front" .}}</svg>
{{- end}}
{{- with .Slim}}
<svg class="front slim" viewBox="0 0 {{.W}} {{.H}}" role="img" aria-label="{{.Alt}}">{{template "front" .}}</svg>
{{- end}}
</section>
{{end}}

<section aria-labelledby="h-kpi">
<h2 id="h-kpi">All figures</h2>
<p class="hint">Bold is the best of those that keep the goal.<span class="js"> Choose a heading to sort by it.</span></p>
<div class="scroll" role="region" aria-labelledby="h-kpi" tabindex="0">
<table class="kpi">
<thead><tr><th scope="col">Policy</th>{{range .KPI.Columns}}<th scope="col" title="{{.About}}">{{.Name}}</th>{{end}}</tr></thead>
<tbody>
{{- range .KPI.Rows}}
<tr class="{{if .Best}}best {{end}}{{if .Met}}met{{else}}missed{{end}}"><th scope="row">{{if .Met}}{{template "check"}}{{else}}{{template "cross"}}{{end}}<span class="sr">{{if .Met}}keeps{{else}}misses{{end}} the goal: </span>{{.Name}}</th>{{range .Cells}}<td data-v="{{.Sort}}">{{if .Best}}<b>{{.Text}}</b>{{else}}{{.Text}}{{end}}</td>{{end}}</tr>
{{- end}}
</tbody>
</table>
</div>
<dl class="terms">
{{- range .KPI.Columns}}
<div><dt>{{.Name}}</dt><dd>{{.About}}</dd></div>
{{- end}}
</dl>
{{- if .Scores}}
<h3>Forecasts</h3>
<div class="scroll" role="region" aria-label="Forecasts" tabindex="0">
<table>
<thead><tr><th scope="col">Policy</th><th scope="col">Asked to cover</th><th scope="col">Covered</th><th scope="col">Pinball loss, units</th><th scope="col">Forecasts</th></tr></thead>
<tbody>
{{- range .Scores}}
<tr><th scope="row">{{.Name}}</th><td>{{.Asked}}</td><td>{{.Came}}</td><td>{{.Pinball}}</td><td>{{.Count}}</td></tr>
{{- end}}
</tbody>
</table>
</div>
{{- end}}
</section>

<section aria-labelledby="h-assume">
<h2 id="h-assume">What is assumed</h2>
<dl class="world">
{{- range .World}}
<div><dt>{{.Name}}</dt><dd>{{.Value}}</dd></div>
{{- end}}
</dl>
{{- if .Assume}}
<ul class="assume">
{{- range .Assume}}
<li>{{.}}</li>
{{- end}}
</ul>
{{- end}}
</section>

{{- if .Command}}
<section aria-labelledby="h-again">
<h2 id="h-again">How to make it again</h2>
<div class="cmd"><pre tabindex="0"><code>{{.Command}}</code></pre></div>
<p class="hint">The same command gives the same figures on every machine. This is one demand and one seed: try others (<code>--seed</code>) before you trust a small difference.</p>
</section>
{{- end}}
</main>

<footer><p>Made by <b>gpupool simulate</b>. This file stands alone: it loads nothing and sends nothing.</p></footer>
{{with .Time}}<script type="application/json" id="data">{{.Data}}</script>{{end}}
<script>{{.Script}}</script>
</body>
</html>
