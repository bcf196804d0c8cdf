package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Class is replicas that have one price: owned, on demand, spot. What starts is
// of the first class with room, so classes stand in the order of preference;
// what is let go is of the last one that has any.
type Class struct {
	Name  string
	Max   int     // replicas of it at most; 0 is without limit
	Price float64 // of a GPU-hour
	// Interruptions is how often a replica that serves is taken away, an hour.
	// It has the time to finish the requests that it has, and another one is
	// started at once, which is of any class with room.
	Interruptions float64
}

const maxClasses = 16

// ParseClass reads a class as it is written on a command line:
// NAME=PRICE[,max=REPLICAS][,interrupt=PER_HOUR].
func ParseClass(text string) (Class, error) {
	bad := func(what string) (Class, error) {
		return Class{}, fmt.Errorf("class %.80q: %s; write NAME=PRICE[,max=REPLICAS][,interrupt=PER_HOUR], such as spot=0.9,max=20,interrupt=0.05", text, what)
	}
	var c Class
	for i, part := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || key == "" || len(key) > 64 {
			return bad(fmt.Sprintf("%.40q is not of the form KEY=VALUE", part))
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil || !(number >= 0 && number <= 1e6) {
			return bad(fmt.Sprintf("%.40q is no number from 0 to a million", value))
		}
		switch {
		case i == 0:
			c.Name, c.Price = key, number
		case key == "max" && number >= 1 && number == float64(int(number)):
			c.Max = int(number)
		case key == "max":
			return bad("max is no count of replicas")
		case key == "interrupt" && number <= 60:
			c.Interruptions = number
		case key == "interrupt":
			return bad("interrupt is more than once a minute")
		default:
			return bad(fmt.Sprintf("there is no key %q", key))
		}
	}
	return c, nil
}

// LeastPrice is the lowest price of a GPU-hour that a replica may have: the
// bound's hours at it are less than any policy could have paid.
func (c Config) LeastPrice() float64 {
	least := c.Price
	for i, k := range c.Classes {
		if i == 0 || k.Price < least {
			least = k.Price
		}
	}
	return least
}

// ClassReport is what one class had of a run.
type ClassReport struct {
	Name          string  `json:"name"`
	GPUHours      float64 `json:"gpu_hours"`
	Cost          float64 `json:"cost"`          // its GPU-hours at its price
	Interruptions int     `json:"interruptions"` // replicas that were taken away
}

// kinds are the classes that replicas of a fleet are of, and how many there are
// of each.
type kinds struct {
	all         []Class
	rng         *rand.Rand
	starting    []int
	ready       []int
	gave        int // class of the last replica that was let go: its drain is billed there
	interrupted []int
}

func newKinds(c Config) kinds {
	all := c.Classes
	if len(all) == 0 {
		all = []Class{{Price: c.Price}}
	}
	n := len(all)
	return kinds{all: all, rng: rand.New(rand.NewPCG(c.Seed, 0x696e74657272)), starting: make([]int, n), ready: make([]int, n), interrupted: make([]int, n)}
}

// pick is the class of the next replica; ok is false where none has room.
func (k *kinds) pick() (class int, ok bool) {
	for i, c := range k.all {
		if c.Max == 0 || k.starting[i]+k.ready[i] < c.Max {
			return i, true
		}
	}
	return 0, false
}

// letGo takes a ready replica of the least preferred class.
func (k *kinds) letGo() {
	i := len(k.all) - 1
	for i > 0 && k.ready[i] == 0 {
		i--
	}
	k.ready[i]--
	k.gave = i
}

// interrupt draws how many ready replicas of each class are taken in one tick.
func (k *kinds) interrupt(scored bool) (taken int) {
	for i, c := range k.all {
		if c.Interruptions == 0 {
			continue
		}
		p, lost := c.Interruptions*tickSeconds/3600, 0
		for range k.ready[i] {
			if k.rng.Float64() < p {
				lost++
			}
		}
		if lost > 0 {
			k.gave = i
		}
		k.ready[i] -= lost
		taken += lost
		if scored {
			k.interrupted[i] += lost
		}
	}
	return taken
}
