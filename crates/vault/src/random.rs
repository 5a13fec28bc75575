//! Randomness for keys and nonces without a system call per object.
//!
//! A buffer of AES-256 keystream under a key from [`Entropy`]; each refill takes its key from the buffer before it and
//! each byte given out is wiped ("fast key erasure", D. J. Bernstein 2017), so a look at memory tells nothing of keys
//! given out earlier. Fresh entropy is taken every 4 MiB.

use std::sync::Arc;

use base::Entropy;
use parking_lot::Mutex;
use zeroize::{Zeroize, Zeroizing};

use crate::Key;
use crate::aead::Cipher;

const BUFFER_BYTES: usize = 4096;
const REFILLS_PER_SEED: u32 = 1024;

pub(crate) struct Random {
    entropy: Arc<dyn Entropy>,
    pool: Mutex<Pool>,
}

struct Pool {
    buffer: Zeroizing<[u8; BUFFER_BYTES]>,
    at: usize,
    next_key: Zeroizing<[u8; 32]>,
    refills_left: u32,
}

impl Random {
    pub(crate) fn new(entropy: Arc<dyn Entropy>) -> Self {
        let pool = Pool {
            buffer: Zeroizing::new([0; BUFFER_BYTES]),
            at: BUFFER_BYTES,
            next_key: Zeroizing::new([0; 32]),
            refills_left: 0,
        };
        Random { entropy, pool: Mutex::new(pool) }
    }

    /// `N` fresh random bytes, `N` at most 1024. For what is no key: moving them leaves copies.
    pub(crate) fn bytes<const N: usize>(&self) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        self.fill(&mut out);
        out
    }

    /// A fresh key.
    pub(crate) fn key(&self) -> Key {
        let mut key = Key::default();
        self.fill(&mut key);
        key
    }

    /// Fresh random bytes where they are to be, at most 1024.
    pub(crate) fn fill<const N: usize>(&self, out: &mut [u8; N]) {
        const { assert!(N <= 1024) };
        let mut pool = self.pool.lock();
        if pool.at + N > BUFFER_BYTES {
            pool.refill(&*self.entropy);
        }
        let at = pool.at;
        let given = &mut pool.buffer[at..at + N];
        out.copy_from_slice(given);
        given.zeroize();
        pool.at += N;
    }
}

impl Pool {
    fn refill(&mut self, entropy: &dyn Entropy) {
        if self.refills_left == 0 {
            entropy.fill(&mut self.next_key[..]);
            self.refills_left = REFILLS_PER_SEED;
        }
        self.refills_left -= 1;
        let cipher = Cipher::new(&self.next_key);
        self.buffer.fill(0);
        // The key is used for this one call, so the nonce may stand still.
        cipher.seal_in_place([0; 12], &[], &mut self.buffer[..]).expect("4 KiB can be sealed");
        self.next_key.copy_from_slice(&self.buffer[..32]);
        self.buffer[..32].zeroize();
        self.at = 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeededEntropy;
    use std::collections::HashSet;

    #[test]
    fn never_repeats_and_one_seed_is_one_run() {
        let (a, b) = (Random::new(Arc::new(SeededEntropy::new(7))), Random::new(Arc::new(SeededEntropy::new(7))));
        let mut seen = HashSet::new();
        for _ in 0..20_000 {
            let bytes = *a.bytes::<16>();
            assert_eq!(bytes, *b.bytes::<16>());
            assert!(seen.insert(bytes));
        }
    }
}
