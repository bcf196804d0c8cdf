// Package instance watches the model servers that Nomad runs on this host: it
// finds them among the allocations, looks at each once a second, and says which
// of them would answer a request now.
//
// What an instance is follows from [Step] alone, a pure function of what was
// seen; the rest of the package is how it is seen and told: [Watcher] asks Nomad
// for the allocations and the servers for their health and load, and package
// register tells Consul.
//
//	         task runs            ready twice, and the
//	                              warm-up request answered
//	cold ─────────────► warming ─────────────────────────► warm ◄──► serving ◄──► saturated
//	 ▲                     │ ▲                              │ ▲
//	 │ task ends,          │ │ started       bad looks,    │ │ awake, ready twice
//	 │ from any state      │ │ anew          a lost GPU    ▼ │
//	 └──                   ▼ │               from any of    asleep
//	                   unhealthy ◄────────── the ready ones
//
//	draining: from any state, while Nomad or an operator wants it to end
package instance
