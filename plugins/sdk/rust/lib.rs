//! Scheduling policies for Caplance in Rust, without std (docs/policy-abi.md
//! is normative). A policy implements [`Policy`]; one macro exports it:
//!
//! ```ignore
//! #![no_std]
//! use caplance::{Flow, Policy, Pool};
//!
//! struct First;
//! impl Policy for First {
//!     const NEW: Self = First;
//!     fn set_pool(&mut self, _: &Pool) -> bool { true }
//!     fn pick(&mut self, _: &Flow, _: &Pool) -> i32 { 0 }
//! }
//! caplance::policy!(First);
//! ```
//!
//! Build it with the rustc of any distribution, without cargo:
//!
//! ```sh
//! flags="--edition 2021 --target wasm32-unknown-unknown -C panic=abort -C opt-level=3 -C strip=debuginfo"
//! rustc $flags --crate-type rlib --crate-name caplance -o libcaplance.rlib lib.rs
//! rustc $flags -C link-arg=-zstack-size=65536 -C link-arg=--max-memory=2097152 \
//!     --crate-type cdylib --extern caplance=libcaplance.rlib -o first.wasm first.rs
//! ```
#![no_std]

use core::mem::size_of;

/// How many backends a policy can take.
pub const MAX_BACKENDS: usize = 4096;
/// Slots of a lookup table.
pub const TABLE_SIZE: usize = 65537;

/// What `pick` may answer besides an index: the host's lookup table decides.
pub const NO_CHOICE: i32 = -1;
/// The flow gets no backend.
pub const REJECT: i32 = -2;
/// The policy's own table decides.
pub const USE_TABLE: i32 = -3;

/// Bits of [`Flow::flags`]; all others are reserved and zero.
pub const SYN: u32 = 1;
pub const FRAGMENT: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flow {
    pub size: u16,
    pub family: u8,
    pub protocol: u8,
    pub sport: u16, pub dport: u16,
    pub hash: u64, pub rand: u64, pub now_ns: u64,
    pub src: [u8; 16], pub dst: [u8; 16],
    pub service: u32, pub mark: u32, pub flags: u32, pub attempt: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Backend {
    pub id: u64,
    pub weight: u32, pub state: u16, pub zone: u16,
    pub addr: [u8; 16],
    pub port: u16, pub family: u16,
    pub max_flows: u32,
    pub priority: u32,
    pub ramp_permille: u32,
    pub user: u64,
    /// Pressure on its CPUs, thousandths; `u32::MAX` when its agent tells none.
    pub load: u32,
    pub reserved: u32,
}

impl Backend {
    /// The weight that counts in slow start, in thousandths.
    pub fn share(&self) -> u64 {
        (self.weight as u64 * self.ramp_permille as u64).max(1)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Info {
    pub worker: u32, pub workers: u32,
    pub seed: u64, pub epoch: u64, pub reserved: [u64; 5],
}

/// The record of a flow that ended, for a `caplance_flow_end` of one's own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct End { pub packets: u64, pub bytes: u64, pub duration_ns: u64, pub reserved: u64 }

// The sizes are those of the specification, or this does not compile.
const _: [(); 80] = [(); size_of::<Flow>()];
const _: [(); 64] = [(); size_of::<Backend>()];
const _: [(); 64] = [(); size_of::<Info>()];
const _: [(); 32] = [(); size_of::<End>()];

/// What the host shows a policy; it writes the counters between calls.
#[repr(C, align(8))]
pub struct Pool {
    pub backends: [Backend; MAX_BACKENDS],
    pub active: [u32; MAX_BACKENDS],
    pub packets: [u64; MAX_BACKENDS],
    pub bytes: [u64; MAX_BACKENDS],
    pub info: Info,
    pub count: usize,
    /// `backends[..eligible]` may be picked.
    pub eligible: usize,
}

impl Pool {
    /// A full backend takes no flow; the host asks again, with `attempt` > 0.
    pub fn full(&self, i: usize) -> bool {
        let most = self.backends[i].max_flows;
        most != 0 && self.active[i] >= most
    }
}

/// What an author writes. `set_pool` is false for a pool that the policy cannot
/// work with: the host picks until the next one.
pub trait Policy {
    const NEW: Self;
    fn set_pool(&mut self, pool: &Pool) -> bool;
    fn pick(&mut self, flow: &Flow, pool: &Pool) -> i32;
}

/// Everything of one instance, for `policy!`.
#[repr(C)]
pub struct Guest<P> {
    pub pool: Pool,
    pub flow: Flow,
    pub policy: P,
}

impl<P: Policy> Guest<P> {
    pub const NEW: Self = {
        let b = Backend {
            id: 0, weight: 0, state: 0, zone: 0, addr: [0; 16], port: 0, family: 0, max_flows: 0, priority: 0,
            ramp_permille: 0, user: 0, load: 0, reserved: 0,
        };
        let flow = Flow {
            size: 0, family: 0, protocol: 0, sport: 0, dport: 0, hash: 0, rand: 0, now_ns: 0, src: [0; 16], dst: [0; 16],
            service: 0, mark: 0, flags: 0, attempt: 0,
        };
        let info = Info { worker: 0, workers: 0, seed: 0, epoch: 0, reserved: [0; 5] };
        let (n32, n64) = ([0; MAX_BACKENDS], [0; MAX_BACKENDS]);
        let pool = Pool { backends: [b; MAX_BACKENDS], active: n32, packets: n64, bytes: n64, info, count: 0, eligible: 0 };
        Guest { pool, flow, policy: P::NEW }
    };

    /// The buffer of a slot, null for those that are not wanted.
    pub fn buffer(&mut self, slot: u32, size: usize) -> *mut u8 {
        fn hand_out<T>(buffer: &mut T, size: usize) -> *mut u8 {
            if size <= size_of::<T>() { buffer as *mut T as *mut u8 } else { core::ptr::null_mut() }
        }
        match slot {
            2 => hand_out(&mut self.flow, size),
            3 => hand_out(&mut self.pool.backends, size),
            4 => hand_out(&mut self.pool.active, size),
            5 => hand_out(&mut self.pool.packets, size),
            6 => hand_out(&mut self.pool.bytes, size),
            10 => hand_out(&mut self.pool.info, size),
            _ => core::ptr::null_mut(),
        }
    }

    pub fn backends(&mut self, count: usize, eligible: usize) -> i32 {
        self.pool.count = count;
        self.pool.eligible = eligible;
        (count > MAX_BACKENDS || !self.policy.set_pool(&self.pool)) as i32
    }

    pub fn pick(&mut self) -> i32 {
        self.policy.pick(&self.flow, &self.pool)
    }
}

/// Exports the policy of the given type. A guest has one thread and its calls
/// never nest, which is why a `static mut` is sound. More of the ABI goes beside
/// it, as `#[no_mangle] extern "C" fn caplance_tick(now_ns: u64)`, for instance.
#[macro_export]
macro_rules! policy {
    ($policy:ty) => {
        static mut GUEST: $crate::Guest<$policy> = $crate::Guest::NEW;
        #[no_mangle]
        pub extern "C" fn caplance_abi_v1() {}
        #[no_mangle]
        pub unsafe extern "C" fn caplance_buffer(slot: u32, size: u32) -> *mut u8 { GUEST.buffer(slot, size as usize) }
        #[no_mangle]
        pub unsafe extern "C" fn caplance_backends(count: u32, eligible: u32) -> i32 {
            GUEST.backends(count as usize, eligible as usize)
        }
        #[no_mangle]
        pub unsafe extern "C" fn caplance_pick(_hash: u64, _flow: u32) -> i32 { GUEST.pick() }
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! { core::arch::wasm32::unreachable() }
    };
}
