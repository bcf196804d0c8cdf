package forecast

// regression is recursive least squares with forgetting (Haykin, Adaptive
// Filter Theory, ch. 13): each observation costs the square of the number of
// features, and nothing is fitted anew.
type regression struct {
	w      features
	p      [regressionFeatures]features // inverse of the weighted covariance; symmetric
	forget float64
}

// regressionFeatures is how many there are. It is a constant, and they are an
// array, because the compiler then checks no index.
const regressionFeatures = 9

type features [regressionFeatures]float64

// newRegression begins with the weights w, held by a prior of the given
// strength: the larger, the more observations it takes to leave them.
func newRegression(w features, strength, forget float64) *regression {
	r := &regression{w: w, forget: forget}
	for i := range r.p {
		r.p[i][i] = 1 / strength
	}
	return r
}

func (r *regression) predict(x *features) float64 {
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
func (r *regression) learn(x *features, y float64) {
	var gain features
	denominator := r.forget
	for i := range r.p {
		g := 0.0
		for j, v := range &r.p[i] {
			g += v * x[j]
		}
		gain[i] = g
		denominator += g * x[i]
	}
	miss := (y - r.predict(x)) / denominator
	trace := 0.0
	for i, g := range gain {
		r.w[i] += g * miss
		trace += r.p[i][i]
	}
	forget := r.forget
	if trace > mostVariance {
		forget = 1
	}
	for i := range r.p {
		gi := gain[i] / denominator
		for j := i; j < len(gain); j++ {
			v := (r.p[i][j] - gi*gain[j]) / forget
			r.p[i][j], r.p[j][i] = v, v
		}
	}
}
