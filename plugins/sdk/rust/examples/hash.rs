//! hash: the 5-tuple decides, by a lookup table that changes as little as
//! possible when the pool does (Eisenbud et al., Maglev, NSDI 2016, listing 1),
//! with weights. It is the function of the bundled policy of that name.
#![no_std]
use caplance::{Flow, Policy, Pool, MAX_BACKENDS, NO_CHOICE, TABLE_SIZE};

const EMPTY: u16 = 0xFFFF;

#[derive(Clone, Copy)]
struct Turn {
    id: u64,
    next: usize,
    skip: usize,
    weight: u64,
    credit: u64,
    index: u16,
}

struct Hash {
    turns: [Turn; MAX_BACKENDS],
    table: [u16; TABLE_SIZE],
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 32).wrapping_mul(0xd6e8feb86659fd93);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8feb86659fd93);
    x ^ x >> 32
}

impl Policy for Hash {
    const NEW: Self = Hash {
        turns: [Turn { id: 0, next: 0, skip: 0, weight: 0, credit: 0, index: 0 }; MAX_BACKENDS],
        table: [0; TABLE_SIZE],
    };

    fn set_pool(&mut self, pool: &Pool) -> bool {
        let turns = &mut self.turns[..pool.eligible];
        for (i, t) in turns.iter_mut().enumerate() {
            let b = &pool.backends[i];
            let (next, skip) = (mix(b.id) % TABLE_SIZE as u64, mix(b.id ^ 0xa5a5a5a5a5a5a5a5) % (TABLE_SIZE as u64 - 1) + 1);
            *t = Turn { id: b.id, next: next as usize, skip: skip as usize, weight: b.weight as u64, credit: 0, index: i as u16 };
        }
        turns.sort_unstable_by_key(|t| t.id); // the order of the pool must not matter
        self.table = [EMPTY; TABLE_SIZE];
        let heaviest = turns.iter().map(|t| t.weight).max().unwrap_or(0);
        let mut filled = 0;
        while heaviest > 0 {
            for t in turns.iter_mut() {
                t.credit += t.weight;
                if t.credit < heaviest {
                    continue;
                }
                t.credit -= heaviest;
                while self.table[t.next] != EMPTY {
                    t.next = (t.next + t.skip) % TABLE_SIZE;
                }
                self.table[t.next] = t.index;
                filled += 1;
                if filled == TABLE_SIZE {
                    return true;
                }
            }
        }
        true
    }

    fn pick(&mut self, flow: &Flow, _: &Pool) -> i32 {
        match self.table[(flow.hash % TABLE_SIZE as u64) as usize] {
            EMPTY => NO_CHOICE,
            index => index as i32,
        }
    }
}

caplance::policy!(Hash);
