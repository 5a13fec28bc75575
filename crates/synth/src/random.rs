//! Chance from a seed.

use base::SeededEntropy;

pub struct Random(SeededEntropy);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(SeededEntropy::new(seed))
    }

    /// 0 ≤ n < `below`.
    pub fn below(&mut self, below: usize) -> usize {
        (self.0.next_u64() % below.max(1) as u64) as usize
    }

    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1).max(1) as usize) as i64
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64 <= probability && probability > 0.0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub fn digits(&mut self, n: usize) -> String {
        (0..n).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    /// Upper-case letters and digits without vowels, so that no word appears.
    pub fn letters(&mut self, n: usize) -> String {
        const LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
        (0..n).map(|_| char::from(LETTERS[self.below(LETTERS.len())])).collect()
    }
}
