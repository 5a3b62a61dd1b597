// hash: the 5-tuple decides, by a lookup table that changes as little as
// possible when the pool does (Eisenbud et al., Maglev, NSDI 2016, listing 1),
// with weights. It is the function of the bundled policy of that name.
import { Flow, MAX_BACKENDS, NO_CHOICE, Policy, TABLE_SIZE, backend, register } from "../caplance";
export { caplance_abi_v1, caplance_buffer, caplance_backends, caplance_pick } from "../caplance";

const EMPTY: u16 = 0xffff;

function mix(x: u64): u64 {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93;
  return x ^ (x >> 32);
}

class Hash extends Policy {
  table: StaticArray<u16> = new StaticArray<u16>(TABLE_SIZE);
  order: StaticArray<i32> = new StaticArray<i32>(MAX_BACKENDS); // indices by id
  next: StaticArray<u32> = new StaticArray<u32>(MAX_BACKENDS); // by position in order
  skip: StaticArray<u32> = new StaticArray<u32>(MAX_BACKENDS);
  credit: StaticArray<u64> = new StaticArray<u64>(MAX_BACKENDS);

  // The order of the pool must not matter.
  sort(n: i32): void {
    for (let i = 0; i < n; i++) {
      let at = i;
      for (; at > 0 && backend(this.order[at - 1]).id > backend(i).id; at--) this.order[at] = this.order[at - 1];
      this.order[at] = i;
    }
  }

  setPool(count: i32, n: i32): bool {
    let heaviest: u64 = 0;
    this.sort(n);
    this.table.fill(EMPTY);
    for (let p = 0; p < n; p++) {
      const b = backend(this.order[p]);
      this.next[p] = <u32>(mix(b.id) % TABLE_SIZE);
      this.skip[p] = <u32>(mix(b.id ^ 0xa5a5a5a5a5a5a5a5) % (TABLE_SIZE - 1) + 1);
      this.credit[p] = 0;
      heaviest = max<u64>(heaviest, b.weight);
    }
    for (let filled = 0; heaviest > 0 && filled < TABLE_SIZE; ) {
      for (let p = 0; p < n && filled < TABLE_SIZE; p++) {
        const credit = this.credit[p] + backend(this.order[p]).weight;
        this.credit[p] = credit;
        if (credit < heaviest) continue;
        this.credit[p] = credit - heaviest;
        this.table[this.free(p)] = <u16>this.order[p];
        filled++;
      }
    }
    return true;
  }

  // The next free one of the slots that a position prefers.
  free(p: i32): i32 {
    let at = this.next[p];
    while (unchecked(this.table[at]) != EMPTY) at = (at + this.skip[p]) % TABLE_SIZE;
    this.next[p] = at;
    return at;
  }

  pick(flow: Flow): i32 {
    const index = this.table[<i32>(flow.hash % TABLE_SIZE)];
    return index == EMPTY ? NO_CHOICE : <i32>index;
  }
}

register(new Hash());
