//! round-robin: every backend in turn, in proportion to its weight: stride
//! scheduling (Waldspurger and Weihl, 1995). A backend's next turn is one stride
//! after its last one; the earliest turn is picked.
#![no_std]
use caplance::{Flow, Policy, Pool, MAX_BACKENDS};

#[derive(Clone, Copy)]
struct Place {
    id: u64,
    turn: u64,
    stride: u64,
}

struct RoundRobin {
    places: [[Place; MAX_BACKENDS]; 2], // of two pools, by index
    current: usize,                     // which of them
    n: usize,
    now: u64, // the turn picked last
}

impl Policy for RoundRobin {
    const NEW: Self = RoundRobin {
        places: [[Place { id: 0, turn: 0, stride: 0 }; MAX_BACKENDS]; 2],
        current: 0,
        n: 0,
        now: 0,
    };

    /// Everybody keeps the place; newcomers line up in their first stride, in
    /// every worker beginning with another one.
    fn set_pool(&mut self, pool: &Pool) -> bool {
        let (old, new) = (self.current, 1 - self.current);
        let (n, was) = (pool.eligible, self.n);
        let start = n * pool.info.worker as usize / pool.info.workers as usize;
        for i in 0..n {
            let b = &pool.backends[i];
            let stride = (1u64 << 40) / b.weight.max(1) as u64;
            let turn = match self.places[old][..was].iter().find(|p| p.id == b.id) {
                Some(p) => p.turn.min(self.now + stride - 1),
                None => self.now + (stride * (((((i + n - start) % n) as u64) << 16) / n as u64) >> 16),
            };
            self.places[new][i] = Place { id: b.id, turn, stride };
        }
        self.current = new;
        self.n = n;
        true
    }

    fn pick(&mut self, _: &Flow, _: &Pool) -> i32 {
        let places = &mut self.places[self.current][..self.n];
        let mut next = 0;
        for i in 1..places.len() {
            if (places[i].turn, places[i].stride) < (places[next].turn, places[next].stride) {
                next = i;
            }
        }
        self.now = places[next].turn;
        places[next].turn += places[next].stride;
        next as i32
    }
}

caplance::policy!(RoundRobin);
