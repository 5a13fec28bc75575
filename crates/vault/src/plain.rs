//! What must not stay behind: [`Key`] and [`Plain`] wipe themselves, and `{:?}` never shows them, so that no panic does.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zeroize::Zeroizing;

/// A key of 256 bits. On the heap: a move copies the pointer, and leaves no key behind on a stack or in a future that
/// nobody wipes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Key(Box<Zeroizing<[u8; 32]>>);

impl From<[u8; 32]> for Key {
    fn from(bytes: [u8; 32]) -> Key {
        Key(Box::new(Zeroizing::new(bytes)))
    }
}

impl Deref for Key {
    type Target = [u8; 32];
    fn deref(&self) -> &[u8; 32] {
        &self.0
    }
}

impl DerefMut for Key {
    fn deref_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Opened bytes, wiped when dropped. Whole words at a time: byte by byte, as `zeroize` does it, wiping 16 KiB takes longer
/// than opening them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Plain(Vec<u8>);

impl Plain {
    pub fn new(bytes: Vec<u8>) -> Plain {
        Plain(bytes)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.fill(0);
        // Without it the compiler sees that nobody reads the zeros, and leaves them out (tests/wiped.rs, in release).
        std::hint::black_box(&mut self.0[..]);
    }
}

impl Deref for Plain {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Plain {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for Plain {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_key_nor_opened_bytes() {
        let text = format!("{:?} {:?}", Key::from([0xAB; 32]), Plain::new(vec![0xAB; 4]));
        assert_eq!(text, "Key(..) Plain(..)");
    }
}
