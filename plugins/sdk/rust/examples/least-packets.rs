//! least-packets: the backend that has been sent the fewest packets per unit of
//! weight, slow start included. Equal ones take turns, from a random start.
#![no_std]
use caplance::{Flow, Policy, Pool};

struct LeastPackets {
    start: usize,
    epoch: u64, // of the counters when start was drawn
}

/// Compares packets per weight without a division.
fn lighter(pool: &Pool, a: usize, b: usize) -> bool {
    let weigh = |x: usize, y: usize| pool.packets[x] as f64 * pool.backends[y].share() as f64;
    weigh(a, b) < weigh(b, a)
}

impl Policy for LeastPackets {
    const NEW: Self = LeastPackets { start: 0, epoch: 0 };

    fn set_pool(&mut self, _: &Pool) -> bool {
        true
    }

    fn pick(&mut self, flow: &Flow, pool: &Pool) -> i32 {
        let n = pool.eligible;
        if self.epoch != pool.info.epoch {
            // All counters are new: let workers begin at different backends.
            self.epoch = pool.info.epoch;
            self.start = (flow.rand % n as u64) as usize;
        }
        let mut best = self.start;
        for k in 1..n {
            let i = (self.start + k) % n;
            if lighter(pool, i, best) {
                best = i;
            }
        }
        best as i32
    }
}

caplance::policy!(LeastPackets);
