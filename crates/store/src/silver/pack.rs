//! The layout of a resource's sealed bytes: the layout's number, the length of the id, the id, then the JSON as it is
//! (1) or its length and the JSON compressed (2). The id is inside, since clients choose ids.
//!
//! Sealing is the vault's matter; this only makes the plaintext smaller.

use std::cell::RefCell;

use base::LogicalId;
use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};

use crate::StoreError;

const AS_IT_IS: u8 = 1;
const COMPRESSED: u8 = 2;

/// Shorter JSON is not worth it.
const COMPRESS_MIN: usize = 256;

/// The fastest: half the bytes at a tenth of the time of the others.
const LEVEL: i32 = 1;

thread_local! {
    // Their working memory is what costs, so each thread keeps one of each.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

pub(super) fn pack(id: &LogicalId, body: &[u8]) -> Zeroizing<Vec<u8>> {
    let id = id.as_str().as_bytes();
    let compressed = (body.len() >= COMPRESS_MIN).then(|| compress(body)).flatten();
    let (layout, content) = match &compressed {
        Some(compressed) => (COMPRESSED, compressed.as_slice()),
        None => (AS_IT_IS, body),
    };
    let mut plain = Zeroizing::new(Vec::with_capacity(6 + id.len() + content.len()));
    // An id has at most 64 characters.
    plain.extend_from_slice(&[layout, id.len() as u8]);
    plain.extend_from_slice(id);
    if layout == COMPRESSED {
        plain.extend_from_slice(&(body.len() as u32).to_be_bytes());
    }
    plain.extend_from_slice(content);
    plain
}

pub(super) fn unpack(plain: &[u8]) -> Result<(LogicalId, Vec<u8>), StoreError> {
    const BAD: StoreError = StoreError::Corrupt("a stored resource has an unknown layout");
    let [layout, length, rest @ ..] = plain else { return Err(BAD) };
    let (id, content) = rest.split_at_checked(usize::from(*length)).ok_or(BAD)?;
    let id = std::str::from_utf8(id).ok().and_then(|id| LogicalId::parse(id).ok()).ok_or(BAD)?;
    let body = match *layout {
        AS_IT_IS => content.to_vec(),
        COMPRESSED => {
            let (length, content) = content.split_first_chunk::<4>().ok_or(BAD)?;
            decompress(content, u32::from_be_bytes(*length) as usize).ok_or(BAD)?
        }
        _ => return Err(BAD),
    };
    Ok((id, body))
}

/// Bytes before they are sealed. `None` where it would not be smaller, or is too large to say its length.
pub fn compress(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    u32::try_from(body.len()).ok()?;
    let compressed = COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(LEVEL).ok()?),
        };
        compressor.compress(body).ok()
    })?;
    (compressed.len() + 4 < body.len()).then(|| Zeroizing::new(compressed))
}

/// What [`compress`] made of `length` bytes; `None` where it is not that.
pub fn decompress(content: &[u8], length: usize) -> Option<Vec<u8>> {
    // The length is sealed with the rest; still, no more memory than zstd can have made of so many bytes is asked for.
    let most = content.len().saturating_mul(1 << 16).min(length);
    let body = DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress(content, most).ok()
    })?;
    (body.len() == length).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks_and_other_layouts_are_refused() {
        let id = LogicalId::parse("a-1").unwrap();
        let long = "0123456789".repeat(1_000);
        let noise: Vec<u8> = (0..400_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for body in [&b""[..], b"{}", long.as_bytes(), &noise, &vec![b' '; 3 << 20]] {
            assert_eq!(unpack(&pack(&id, body)).unwrap(), (id.clone(), body.to_vec()));
        }
        assert!(pack(&id, long.as_bytes()).len() < 200);
        for bad in [&b""[..], b"\x01", b"\x01\x09abc", b"\x03\x01a", b"\x02\x01a\0\0\0\x05xyz"] {
            assert!(unpack(bad).is_err());
        }
    }
}
