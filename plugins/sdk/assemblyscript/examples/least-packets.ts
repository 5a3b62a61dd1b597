// least-packets: the backend that has been sent the fewest packets per unit of
// weight, slow start included. Equal ones take turns, from a random start.
import { Flow, Policy, backend, info, packets, register } from "../caplance";
export { caplance_abi_v1, caplance_buffer, caplance_backends, caplance_pick } from "../caplance";

// Compares packets per weight without a division.
function lighter(a: i32, b: i32): bool {
  return <f64>packets(a) * <f64>backend(b).share < <f64>packets(b) * <f64>backend(a).share;
}

class LeastPackets extends Policy {
  n: i32 = 0;
  start: i32 = 0;
  epoch: u64 = 0; // of the counters when start was drawn

  setPool(count: i32, eligible: i32): bool {
    this.n = eligible;
    return true;
  }

  pick(flow: Flow): i32 {
    if (this.epoch != info().epoch) {
      // All counters are new: let workers begin at different backends.
      this.epoch = info().epoch;
      this.start = <i32>(flow.rand % this.n);
    }
    let best = this.start;
    for (let k = 1; k < this.n; k++) {
      const i = (this.start + k) % this.n;
      if (lighter(i, best)) best = i;
    }
    return best;
  }
}

register(new LeastPackets());
