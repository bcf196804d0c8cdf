package forecast

// regression is recursive least squares with forgetting (Haykin, Adaptive
// Filter Theory, ch. 13): each observation costs the square of the number of
// features, and nothing is fitted anew.
type regression struct {
	w      []float64
	p      []float64 // inverse of the weighted covariance, row by row
	gain   []float64
	forget float64
}

// newRegression begins with the weights w, held by a prior of the given
// strength: the larger, the more observations it takes to leave them.
func newRegression(w []float64, strength, forget float64) *regression {
	n := len(w)
	r := &regression{w: append([]float64(nil), w...), p: make([]float64, n*n), gain: make([]float64, n), forget: forget}
	for i := range n {
		r.p[i*n+i] = 1 / strength
	}
	return r
}

func (r *regression) predict(x []float64) float64 {
	v := 0.0
	for i, w := range r.w {
		v += w * x[i]
	}
	return v
}

// mostVariance bounds the inverse covariance: directions that no observation
// excites would otherwise grow without limit under forgetting.
const mostVariance = 1e4

// learn takes in that features x were followed by y.
func (r *regression) learn(x []float64, y float64) {
	n := len(r.w)
	denominator := r.forget
	for i := range n {
		g := 0.0
		row := r.p[i*n : i*n+n]
		for j, v := range row {
			g += v * x[j]
		}
		r.gain[i] = g
		denominator += g * x[i]
	}
	miss := (y - r.predict(x)) / denominator
	trace := 0.0
	for i, g := range r.gain {
		r.w[i] += g * miss
		trace += r.p[i*n+i]
	}
	forget := r.forget
	if trace > mostVariance {
		forget = 1
	}
	for i := range n {
		gi := r.gain[i] / denominator
		for j := i; j < n; j++ {
			v := (r.p[i*n+j] - gi*r.gain[j]) / forget
			r.p[i*n+j], r.p[j*n+i] = v, v
		}
	}
}
