// round-robin: every backend in turn, in proportion to its weight: stride
// scheduling (Waldspurger and Weihl, 1995). A backend's next turn is one stride
// after its last one; the earliest turn is picked.
import { Flow, MAX_BACKENDS, Policy, backend, info, register } from "../caplance";
export { caplance_abi_v1, caplance_buffer, caplance_backends, caplance_pick } from "../caplance";

class Places {
  id: StaticArray<u64> = new StaticArray<u64>(MAX_BACKENDS);
  turn: StaticArray<u64> = new StaticArray<u64>(MAX_BACKENDS);
  stride: StaticArray<u64> = new StaticArray<u64>(MAX_BACKENDS);
  n: i32 = 0;

  find(id: u64): i32 {
    for (let i = 0; i < this.n; i++) if (unchecked(this.id[i]) == id) return i;
    return -1;
  }
}

class RoundRobin extends Policy {
  places: Places = new Places();
  old: Places = new Places();
  now: u64 = 0; // the turn picked last

  // Everybody keeps the place; newcomers line up in their first stride, in
  // every worker beginning with another one.
  setPool(count: i32, n: i32): bool {
    const old = this.places, places = this.old;
    const start = n * info().worker / info().workers;
    for (let i = 0; i < n; i++) {
      const b = backend(i), was = old.find(b.id);
      const stride = (<u64>1 << 40) / max<u64>(b.weight, 1);
      const phase = (<u64>((i + n - start) % n) << 16) / n;
      places.id[i] = b.id;
      places.stride[i] = stride;
      places.turn[i] = was >= 0 ? min(old.turn[was], this.now + stride - 1) : this.now + (stride * phase >> 16);
    }
    places.n = n;
    this.places = places;
    this.old = old;
    return true;
  }

  pick(flow: Flow): i32 {
    const turn = this.places.turn, stride = this.places.stride;
    let next = 0;
    for (let i = 1; i < this.places.n; i++) {
      const t = unchecked(turn[i]), first = unchecked(turn[next]);
      if (t < first || (t == first && unchecked(stride[i]) < unchecked(stride[next]))) next = i;
    }
    this.now = turn[next];
    turn[next] += stride[next];
    return next;
  }
}

register(new RoundRobin());
