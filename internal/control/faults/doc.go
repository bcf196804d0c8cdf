// Package faults tries the live [control.Loop] in made-up racks where things go
// wrong, thousands of times, each time by a schedule of faults that a seed
// stands for. It is all tests:
//
//	go test ./internal/control/faults                     2,000 schedules
//	go test ./internal/control/faults -schedules 100000   a night's worth
//	go test ./internal/control/faults -seed 4711          one, told step by step
//	go test ./internal/control/faults -mutants            rules removed, one at a time
//
// A schedule that fails is made as short as it can be and printed as a file and
// as the story of what happened, what was seen, decided and done. The file, kept
// in testdata/schedules, is played by every test from then on.
//
// The world has hosts of two classes in two racks, each with a BMC, an
// operating system, a Nomad client, an agent, and people who take it in hand, in
// Nomad or by their word to us; a scheduler that places batch work and services;
// a provider that runs out of one class; a Consul that is [consultest.Memory];
// and two processes that want the pool's lease, one of which may run on a host
// of the pool. The processes run the loop as it is. What they did is judged from
// the world's own truth, never by pool.Check or a phase, which the loop itself
// uses.
//
// # What must hold
//
// Safety, at each act and at the moment that a BMC carries a command out:
//
//   - no host loses its power by us with an allocation running on it, nor with a
//     process on its GPUs that its agent had time to report, nor before a
//     drain of ours has ended, unless its client never joined;
//   - nor with work on it that Nomad has given up and that may live, if it was
//     ever seen to have joined;
//   - no work is moved away that must stay;
//   - nothing is done to a host that an operator holds, nor against what an
//     operator said of it;
//   - no process takes the host that it runs on out of service;
//   - each act is recorded before it, by the holder of the lease, and done
//     once; no two processes act on one record;
//   - never more booting, draining or in service than allowed; fewer in service
//     than wanted never by our hand;
//   - least time on, budget of cycles, stagger and the racks' watts are kept;
//   - a class that the provider had none of is not asked for within a minute,
//     nor, if it had none again, within two, and so on;
//   - a warm host that leaves is taken back before a cold one is powered on.
//
// Liveness, once faults have stopped and the wanted count is steady: within a
// bound computed from the limits, as many hosts as wanted and feasible are in
// service, every other one is off or as an operator wants it, those that are to
// stand by do, and nothing is done any more.
//
// # What nobody can close
//
// These races are allowed, each no further than its bound. They are marked
// "race" where the judge lets them pass.
//
//   - A process that starts on the GPUs after the agent's last sample: bound,
//     the age of that sample at the look, 1 s, and from the look to the act.
//   - Work on a node that Nomad did not know at the last look, so that it could
//     not be made ineligible: bound, from that look to the act.
//   - An operator's hand that came after the last look: bound, from that look
//     to the act. One that makes no difference to what Nomad shows, because we
//     had made the node ineligible already, is not seen at all, until it is
//     eligible again. A word that came after the process asked: bound, one
//     tick.
//   - A change that an operator makes to a node in the moment between its host's
//     end and Nomad's noticing looks like its client, which registers anew. The
//     world's operators do not do that.
//   - An operator's drain of a host that shuts down, where its client drains
//     itself then, which hides the operator's mark.
//   - A process on a host whose agent does not answer and whose Nomad client
//     never joined: nobody is left to ask.
//   - Work that Nomad has given up as lost, on a host that was cut off from it
//     before anybody saw it join, or whose BMC said off when it was powered on.
//     To us it did not boot. Nomad has placed the work anew.
//   - A soft off that failed with an unknown outcome counts as sent: an empty,
//     drained host may lose its power, where hard off is allowed, without having
//     been asked. A soft off without any outcome does not count.
//   - A host whose BMC does not tell the truth is not counted among those that
//     boot, drain, serve or draw power, and one whose BMC says nothing not among
//     those that drain or serve: bound, while that lasts.
//   - A host that Nomad lost sight of while it drained is not counted among those
//     that drain: bound, until it is seen again. One that never comes back would
//     otherwise keep every other in service for good.
//   - A host that somebody else powers on after the look is not counted in its
//     rack's watts: bound, from that look to the act.
//   - A command that is carried out later than the fence. The world never does
//     that: the fence is the operator's promise about the BMCs.
package faults
