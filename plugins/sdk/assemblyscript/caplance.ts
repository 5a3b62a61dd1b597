/**
 * Scheduling policies for Caplance in AssemblyScript (docs/policy-abi.md is
 * normative). A policy is a class; the entry file registers one of it and
 * exports what the balancer calls:
 *
 *     import { Policy, Flow, register } from "./caplance";
 *     export { caplance_abi_v1, caplance_buffer, caplance_backends, caplance_pick } from "./caplance";
 *
 *     class First extends Policy {
 *       pick(flow: Flow): i32 { return 0; }
 *     }
 *     register(new First());
 *
 * More of the ABI is exported beside it, caplance_tick for instance. Build it
 * without a garbage collector (so do not allocate in pick):
 *
 *     npx asc first.ts -o first.wasm -O3 --runtime stub --use abort= --maximumMemory 32
 */

/** How many backends a policy can take. */
export const MAX_BACKENDS = 4096;
/** Slots of a lookup table. */
export const TABLE_SIZE = 65537;

// What pick may answer besides an index.
export const NO_CHOICE = -1; // the host's lookup table decides
export const REJECT = -2; // the flow gets no backend
export const USE_TABLE = -3; // the policy's own table decides

// Bits of Flow.flags; all others are reserved and zero.
export const SYN: u32 = 1;
export const FRAGMENT: u32 = 2;

/** 16 bytes in network order, as two words of the memory. */
@unmanaged
export class Addr {
  first: u64;
  last: u64;
}

/** A flow record. */
@unmanaged
export class Flow {
  size: u16;
  family: u8;
  protocol: u8;
  sport: u16;
  dport: u16;
  hash: u64;
  rand: u64;
  now_ns: u64;
  private src0: u64;
  private src1: u64;
  private dst0: u64;
  private dst1: u64;
  service: u32;
  mark: u32;
  flags: u32;
  attempt: i32;

  get src(): Addr { return changetype<Addr>(changetype<usize>(this) + offsetof<Flow>("src0")); }
  get dst(): Addr { return changetype<Addr>(changetype<usize>(this) + offsetof<Flow>("dst0")); }
}

/** A backend record. */
@unmanaged
export class Backend {
  id: u64;
  weight: u32;
  state: u16;
  zone: u16;
  private addr0: u64;
  private addr1: u64;
  port: u16;
  family: u16;
  max_flows: u32;
  priority: u32;
  ramp_permille: u32;
  user: u64;
  /** Pressure on its CPUs, thousandths; u32.MAX_VALUE when its agent tells none. */
  load: u32;
  reserved: u32;

  get addr(): Addr { return changetype<Addr>(changetype<usize>(this) + offsetof<Backend>("addr0")); }

  /** The weight that counts in slow start, in thousandths. */
  get share(): u64 { return max<u64>(<u64>this.weight * <u64>this.ramp_permille, 1); }
}

/** The info record. */
@unmanaged
export class Info {
  worker: u32;
  workers: u32;
  seed: u64;
  epoch: u64;
  private r0: u64;
  private r1: u64;
  private r2: u64;
  private r3: u64;
  private r4: u64;
}

/** The record of a flow that ended, for a caplance_flow_end of one's own. */
@unmanaged
export class End {
  packets: u64;
  bytes: u64;
  duration_ns: u64;
  reserved: u64;
}

// The sizes are those of the specification, or this does not compile.
if (offsetof<Flow>() != 80 || offsetof<Flow>("src0") != 32 || offsetof<Flow>("attempt") != 76) ERROR("Flow");
if (offsetof<Backend>() != 64 || offsetof<Backend>("max_flows") != 36) ERROR("Backend");
if (offsetof<Info>() != 64 || offsetof<Info>("epoch") != 16) ERROR("Info");
if (offsetof<End>() != 32) ERROR("End");

// The buffers: static memory, which the host writes between calls.
const flow = memory.data(80, 8);
const infoRecord = memory.data(64, 8);
const records = memory.data(64 * MAX_BACKENDS, 8);
const actives = memory.data(4 * MAX_BACKENDS, 8);
const packetCounts = memory.data(8 * MAX_BACKENDS, 8);
const byteCounts = memory.data(8 * MAX_BACKENDS, 8);

/** The i-th backend. */
export function backend(i: i32): Backend { return changetype<Backend>(records + (<usize>i << 6)); }
/** Its open flows. */
export function active(i: i32): u32 { return load<u32>(actives + (<usize>i << 2)); }
/** Packets forwarded to it. */
export function packets(i: i32): u64 { return load<u64>(packetCounts + (<usize>i << 3)); }
/** Bytes forwarded to it. */
export function bytes(i: i32): u64 { return load<u64>(byteCounts + (<usize>i << 3)); }
/** Whether it takes no more flows; when it is picked, the host asks again with attempt > 0. */
export function full(i: i32): bool { return backend(i).max_flows != 0 && active(i) >= backend(i).max_flows; }
/** The info record. */
export function info(): Info { return changetype<Info>(infoRecord); }

/** What an author extends. */
export abstract class Policy {
  /** Another pool: backends 0 to eligible-1 may be picked. False refuses it: the host picks until the next one. */
  setPool(count: i32, eligible: i32): bool { return true; }
  /** An index below eligible, NO_CHOICE, REJECT or USE_TABLE. */
  abstract pick(flow: Flow): i32;
}

let policy: Policy | null = null;

/** Makes p the policy of this module. */
export function register(p: Policy): void { policy = p; }

export function caplance_abi_v1(): void {}

export function caplance_buffer(slot: i32, size: i32): usize {
  switch (slot) {
    case 2: return size <= 80 ? flow : 0;
    case 3: return size <= 64 * MAX_BACKENDS ? records : 0;
    case 4: return size <= 4 * MAX_BACKENDS ? actives : 0;
    case 5: return size <= 8 * MAX_BACKENDS ? packetCounts : 0;
    case 6: return size <= 8 * MAX_BACKENDS ? byteCounts : 0;
    case 10: return infoRecord;
  }
  return 0;
}

export function caplance_backends(count: i32, eligible: i32): i32 {
  return count <= MAX_BACKENDS && policy!.setPool(count, eligible) ? 0 : 1;
}

export function caplance_pick(hash: u64, record: usize): i32 {
  return policy!.pick(changetype<Flow>(flow));
}
