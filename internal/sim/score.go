package sim

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/gpupool/gpupool/internal/demand"
	"github.com/gpupool/gpupool/internal/plan"
)

// score adds up what a run costs and how long its requests wait, from the
// first scored tick on.
type score struct {
	cfg    Config
	scored int
	limit  float64 // longest wait on time, s, and a hair's breadth for the rounding of sums

	billed   float64   // replica-seconds
	classes  []float64 // of them, by class
	busy     float64   // slot-seconds
	energy   float64   // joules
	waits    histogram
	all      float64   // requests
	late     float64   // of them
	dayAll   []float64 // by day of the trace
	dayLate  []float64
	dayBill  []float64 // replica-seconds
	dayStart []int     // start commands given by the end of the day
	mostWait float64   // requests in the queue

	forecasts []forecast
}

// forecast is one that a policy made: demand, in units, is at most value from
// lead on for one interval, with probability quantile.
type forecast struct {
	tick     int
	value    float64
	quantile float64
}

func newScore(c Config, scored, end int) *score {
	days := (end + ticksPerDay - 1) / ticksPerDay
	return &score{cfg: c, scored: scored, limit: c.SLOWait.Seconds() + 1e-6, classes: make([]float64, max(len(c.Classes), 1)), dayAll: make([]float64, days), dayLate: make([]float64, days),
		dayBill: make([]float64, days), dayStart: make([]int, days)}
}

// wait notes that n requests, which arrived in the given tick, waited from w1
// to w2 seconds, evenly spread between.
func (s *score) wait(arrived int, n, w1, w2 float64) {
	if arrived < s.scored || n <= 0 {
		return
	}
	s.all += n
	day := arrived / ticksPerDay
	s.dayAll[day] += n
	if late := n * above(w1, w2, s.limit); late > 0 {
		s.late += late
		s.dayLate[day] += late
	}
	s.waits.add(n, w1, w2)
}

// one notes that one request, which arrived in the given tick, waited so long:
// it is wait in fewer steps.
func (s *score) one(arrived int, wait float64) {
	if arrived < s.scored {
		return
	}
	s.all++
	day := arrived / ticksPerDay
	s.dayAll[day]++
	if wait > s.limit {
		s.late++
		s.dayLate[day]++
	}
	s.waits.all++
	s.waits.one(1, wait)
}

// above is the share of [w1, w2], in either order, that is longer than limit.
func above(w1, w2, limit float64) float64 {
	lo, hi := min(w1, w2), max(w1, w2)
	switch {
	case hi <= limit:
		return 0
	case lo > limit:
		return 1
	}
	return (hi - limit) / (hi - lo)
}

// bill adds one tick's cost and returns the number of replicas billed.
func (s *score) bill(now int, f *fleet, draining int, did served) float64 {
	billed := f.billed(draining)
	if now < s.scored {
		return billed
	}
	c := &s.cfg
	s.billed += billed * tickSeconds
	for i := range s.classes {
		s.classes[i] += float64(f.kinds.starting[i]+f.kinds.ready[i]) * tickSeconds
	}
	s.classes[f.kinds.gave] += float64(draining) * tickSeconds
	s.dayBill[now/ticksPerDay] += billed * tickSeconds
	s.dayStart[now/ticksPerDay] = f.commands
	s.busy += did.busy
	boot := float64(len(f.starting))
	busy := did.busy / float64(c.Slots)
	s.energy += c.GPUs * ((billed*tickSeconds-boot*tickSeconds)*c.IdleWatts + boot*tickSeconds*c.BootWatts + busy*(c.BusyWatts-c.IdleWatts))
	return billed
}

func (s *score) backlog(now int, waiting float64) {
	if now >= s.scored {
		s.mostWait = max(s.mostWait, waiting)
	}
}

// decided keeps the forecast of a decision that has one.
func (s *score) decided(now int, d plan.Decision) {
	q, ok := d.Term(plan.TermQuantile)
	if !ok || now < s.scored {
		return
	}
	if f, ok := d.Term(plan.TermForecast); ok {
		s.forecasts = append(s.forecasts, forecast{now, f.Value, q.Value})
	}
}

func (s *score) report(f *fleet) PolicyReport {
	c := s.cfg
	r := PolicyReport{
		GPUHours:    s.billed / 3600 * c.GPUs,
		WaitP50S:    s.waits.quantile(0.50),
		WaitP95S:    s.waits.quantile(0.95),
		WaitP99S:    s.waits.quantile(0.99),
		PowerCycles: f.commands,
		MaxBacklog:  math.Round(s.mostWait),
		EnergyKWh:   s.energy / 3.6e6,
		Requests:    s.all,
		Attainment:  1,
		WorstDay:    1,
	}
	if s.billed > 0 {
		r.Utilization = s.busy / (s.billed * float64(c.Slots))
	}
	r.Cost = r.GPUHours*c.Price + float64(r.PowerCycles)*c.CyclePrice
	if len(c.Classes) > 0 {
		r.Cost = float64(r.PowerCycles) * c.CyclePrice
		for i, k := range c.Classes {
			hours := s.classes[i] / 3600 * c.GPUs
			r.Classes = append(r.Classes, ClassReport{Name: k.Name, GPUHours: hours, Cost: hours * k.Price, Interruptions: f.kinds.interrupted[i]})
			r.Cost += hours * k.Price
		}
	}
	if s.all > 0 {
		r.Attainment = 1 - s.late/s.all
	}
	before := 0
	for i, n := range s.dayAll {
		if n > 0 {
			r.WorstDay = min(r.WorstDay, 1-s.dayLate[i]/n)
		}
		if i >= s.scored/ticksPerDay {
			r.Days = append(r.Days, Day{Day: i, GPUHours: s.dayBill[i] / 3600 * c.GPUs, PowerCycles: s.dayStart[i] - before, Requests: n, Late: s.dayLate[i]})
			before = s.dayStart[i]
		}
	}
	return r
}

// forecast scores the forecasts against what came: the largest two-minute mean
// of the offered load, in units, from lead to lead and interval.
func (s *score) forecast(w *World) *Forecast {
	if len(s.forecasts) == 0 {
		return nil
	}
	load := w.need()
	lead, long := int(w.cfg.Lead/time.Minute), max(int(w.cfg.Interval/time.Minute), 1)
	out := Forecast{}
	for _, f := range s.forecasts {
		from := f.tick/ticksPerMinute + lead
		if from < 1 || from+long > len(load) {
			continue
		}
		came := 0.0
		for m := from; m < from+long; m++ {
			came = max(came, (load[m]+load[m-1])/2)
		}
		came *= float64(w.cfg.Slots)
		miss := came - f.value
		out.Pinball += max(f.quantile*miss, (f.quantile-1)*miss)
		out.Quantile += f.quantile
		if miss <= 0 {
			out.Coverage++
		}
		out.Count++
	}
	if out.Count == 0 {
		return nil
	}
	n := float64(out.Count)
	out.Pinball, out.Quantile, out.Coverage = out.Pinball/n, out.Quantile/n, out.Coverage/n
	return &out
}

// histogram counts waits in bins that each cover a thirty-second of a power of
// two, so that it knows a quantile to 1.6 %. The bits of a floating point
// number are such a scale already.
type histogram struct {
	none float64 // waited less than the first bin
	bins [28 * binsPerOctave]float64
	all  float64
}

const (
	binShift      = 52 - 5           // mantissa bits that a bin does not tell apart
	binsPerOctave = 1 << 5           //
	binFirst      = 1.0 / 128        // s, where the first bin begins
	binBits       = (1023 - 7) << 52 // of binFirst
)

// bin is the index of the bin that w falls in, which must be at least binFirst.
func (h *histogram) bin(w float64) int {
	return min(int((math.Float64bits(w)-binBits)>>binShift), len(h.bins)-1)
}

// middle is the wait that stands for a bin, seconds.
func (h *histogram) middle(i int) float64 {
	return math.Float64frombits(binBits + uint64(i)<<binShift + 1<<(binShift-1))
}

// add counts n waits spread evenly from w1 to w2.
func (h *histogram) add(n, w1, w2 float64) {
	h.all += n
	if w1 < binFirst && w2 < binFirst {
		h.none += n
		return
	}
	const parts = 4
	if math.Abs(w1-w2) < 0.02*max(w1, w2) {
		h.one(n, (w1+w2)/2)
		return
	}
	for i := range parts {
		f := (float64(i) + 0.5) / parts
		h.one(n/parts, w1+f*(w2-w1))
	}
}

func (h *histogram) one(n, w float64) {
	if w < binFirst {
		h.none += n
		return
	}
	h.bins[h.bin(w)] += n
}

// quantile is the middle of the bin that the q-quantile falls in, seconds.
func (h *histogram) quantile(q float64) float64 {
	left := q*h.all - h.none
	if h.all == 0 || left <= 0 {
		return 0
	}
	for i, n := range h.bins {
		if left -= n; left <= 0 {
			return h.middle(i)
		}
	}
	return h.middle(len(h.bins) - 1)
}

// meter takes the samples that policies see.
type meter struct {
	w     *World
	lost  []bool
	every int
	late  int

	busy, arrived, completed float64 // since the last sample
	o                        Observation
	times                    []time.Time // when commanded, of those starting
}

func newMeter(w *World, end int) *meter {
	c := w.cfg
	m := &meter{w: w, every: ticks(c.Sample), late: ticks(c.Delay)}
	n := end/m.every + 1
	m.lost = lost(c, n)
	for _, s := range []*demand.Series{&m.o.InService, &m.o.Waiting, &m.o.Arrivals, &m.o.Completions, &m.o.Utilization, &m.o.ReadyCount} {
		*s = make(demand.Series, 0, n)
	}
	return m
}

// measure takes in one tick and, at its end, a sample when one is due.
func (m *meter) measure(now int, arrivals float64, did served, ready int, waiting float64) {
	m.busy += did.busy
	m.arrived += arrivals
	m.completed += did.completions
	if (now+1)%m.every != 0 {
		return
	}
	long := float64(m.every) * tickSeconds
	busy, arrived, completed := m.busy/long, m.arrived/long, m.completed/long
	m.busy, m.arrived, m.completed = 0, 0, 0
	if m.lost[(now+1)/m.every] {
		return
	}
	at := m.w.at(now + 1)
	put := func(s *demand.Series, v float64) { *s = append(*s, demand.Point{At: at, Value: v}) }
	put(&m.o.InService, busy)
	put(&m.o.Waiting, waiting)
	put(&m.o.Arrivals, arrived)
	put(&m.o.Completions, completed)
	put(&m.o.ReadyCount, float64(ready))
	if ready > 0 {
		put(&m.o.Utilization, min(busy/float64(ready*m.w.cfg.Slots), 1))
	}
}

// observe is what can be seen at now.
func (m *meter) observe(now int, f *fleet) Observation {
	o := m.o
	newest := m.w.at(now - m.late)
	for _, s := range []*demand.Series{&o.InService, &o.Waiting, &o.Arrivals, &o.Completions, &o.Utilization, &o.ReadyCount} {
		n := len(*s)
		for n > 0 && (*s)[n-1].At.After(newest) {
			n--
		}
		*s = (*s)[:n:n]
	}
	o.Wanted, o.Ready = f.wanted, f.ready
	m.times = m.times[:0]
	for _, s := range f.starting {
		m.times = append(m.times, m.w.at(s.command))
	}
	o.Starting = m.times
	return o
}

// timeline records a run for drawing.
type timeline struct {
	every int
	n     int
	sum   [3]float64
	most  float64
	t     *Timeline
}

func newTimeline(w *World) *timeline {
	l := &timeline{every: ticks(w.cfg.Timeline)}
	if l.every > 0 {
		l.t = &Timeline{StepS: float64(l.every) * tickSeconds}
	}
	return l
}

func (l *timeline) add(now int, w *World, ready int, billed, waiting float64) {
	if l.t == nil {
		return
	}
	l.n++
	l.sum[0] += w.arrivals[now] * w.work[now/ticksPerMinute] / tickSeconds
	l.sum[1] += float64(ready)
	l.sum[2] += billed
	l.most = max(l.most, waiting)
	if l.n == l.every {
		l.flush()
	}
}

func (l *timeline) flush() {
	n := float64(l.n)
	l.t.Need = append(l.t.Need, round(l.sum[0]/n))
	l.t.Ready = append(l.t.Ready, round(l.sum[1]/n))
	l.t.Billed = append(l.t.Billed, round(l.sum[2]/n))
	l.t.Waiting = append(l.t.Waiting, round(l.most))
	l.n, l.sum, l.most = 0, [3]float64{}, 0
}

// round keeps three decimals: a drawing needs no more, and files stay small.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func (l *timeline) done() *Timeline {
	if l.t != nil && l.n > 0 {
		l.flush()
	}
	return l.t
}

// lost says which samples never arrive.
func lost(c Config, n int) []bool {
	rng := rand.New(rand.NewPCG(c.Seed, 0x6c6f7374))
	out := make([]bool, n)
	for i := range out {
		out[i] = rng.Float64() < c.Loss
	}
	return out
}
