//! The file: two lines in the clear, then one sealed part.
//!
//! ```text
//! ward-downtime/1
//! {"pack":..,"domain":..,"location":..,"made_ms":..,"expires_ms":..,"day":..,"salt":..}
//! nonce(12) AES-256-GCM(zstd(JSON of the ward)) tag(16)
//! ```
//!
//! The two lines are associated data: a changed time of expiry does not open. The key is Argon2id of the code on the
//! card. Whoever holds file and card can write a reader that ignores the expiry; what bounds that is the card, which is
//! for one ward and one day, and is destroyed after it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base::{DomainName, Entropy, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Code, Ward};

const MAGIC: &str = "ward-downtime/1";
/// A whole file, and what it unpacks to.
pub const PACK_BYTES_MAX: usize = 32 << 20;
const HEADER_BYTES_MAX: usize = 2048;
/// OWASP's minimum for Argon2id; the code has 125 bits of its own.
const ARGON2_KIB: u32 = 19_456;
const ARGON2_PASSES: u32 = 2;

/// What a stranger may know of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// 32 hexadecimal digits.
    pub pack: String,
    pub domain: DomainName,
    pub location: String,
    pub made_ms: i64,
    pub expires_ms: i64,
    /// The day whose code opens it, `YYYY-MM-DD`, UTC.
    pub day: String,
    pub salt: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("this is no downtime pack, or it is cut short")]
    NotAPack,
    #[error("the code does not open this pack: use the card of its ward and its day, and type it as printed")]
    WrongCode,
    #[error("this pack expired at {0}: use a newer one; what it says may no longer be true")]
    Expired(String),
    #[error(
        "the clock of this machine says {now}, which is before {then}, when the pack was last made or read: set it"
    )]
    ClockBehind { now: String, then: String },
    #[error("the pack would be larger than {max} bytes: make packs for smaller wards")]
    TooLarge { max: usize },
    #[error("the pack could not be made: {0}")]
    Broken(&'static str),
}

/// Keys that the code gives: for the pack and for the record of its openings.
pub struct Keys {
    pack: Zeroizing<[u8; 32]>,
    openings: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Some hundred milliseconds of work.
    pub fn of(code: &Code, header: &Header) -> Result<Keys, PackError> {
        let salt = base::hex::decode(&header.salt).filter(|salt| salt.len() == 16).ok_or(PackError::NotAPack)?;
        let broken = |_| PackError::Broken("the key could not be derived");
        let parameters = argon2::Params::new(ARGON2_KIB, ARGON2_PASSES, 1, Some(64)).map_err(broken)?;
        let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
        let mut both = Zeroizing::new([0; 64]);
        argon2.hash_password_into(code.bytes(), &salt, &mut *both).map_err(broken)?;
        let (mut pack, mut openings) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        pack.copy_from_slice(&both[..32]);
        openings.copy_from_slice(&both[32..]);
        Ok(Keys { pack, openings })
    }

    pub(crate) fn openings(&self) -> &[u8; 32] {
        &self.openings
    }

    fn cipher(&self) -> Result<LessSafeKey, PackError> {
        let key = UnboundKey::new(&AES_256_GCM, &*self.pack).map_err(|_| PackError::Broken("the key has no length"))?;
        Ok(LessSafeKey::new(key))
    }
}

/// A header with a name and salt of its own.
impl Header {
    pub fn new(
        domain: &DomainName,
        location: &str,
        made: Timestamp,
        expires: Timestamp,
        day: &str,
        entropy: &dyn Entropy,
    ) -> Header {
        let mut drawn = [0; 32];
        entropy.fill(&mut drawn);
        Header {
            pack: base::hex::encode(&drawn[..16]),
            domain: domain.clone(),
            location: location.to_owned(),
            made_ms: made.ms(),
            expires_ms: expires.ms(),
            day: day.to_owned(),
            salt: base::hex::encode(&drawn[16..]),
        }
    }
}

/// The bytes of the file.
pub fn seal(header: &Header, code: &Code, ward: &Ward, entropy: &dyn Entropy) -> Result<Vec<u8>, PackError> {
    let lines = format!("{MAGIC}\n{}\n", serde_json::to_string(header).map_err(|_| PackError::Broken("its header"))?);
    let plain = Zeroizing::new(serde_json::to_vec(ward).map_err(|_| PackError::Broken("its content"))?);
    let packed = Zeroizing::new(zstd::bulk::compress(&plain, 3).map_err(|_| PackError::Broken("its content"))?);
    let too_large = PackError::TooLarge { max: PACK_BYTES_MAX };
    if lines.len() > HEADER_BYTES_MAX || plain.len().max(packed.len()) + HEADER_BYTES_MAX + 28 > PACK_BYTES_MAX {
        return Err(too_large);
    }
    let mut nonce = [0; NONCE_LEN];
    entropy.fill(&mut nonce);
    let mut sealed = packed.to_vec();
    let (tag, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(lines.as_bytes()));
    let cipher = Keys::of(code, header)?.cipher()?;
    cipher.seal_in_place_append_tag(tag, aad, &mut sealed).map_err(|_| PackError::Broken("it could not be sealed"))?;
    Ok([lines.as_bytes(), &nonce, &sealed].concat())
}

/// The lines in the clear, without a code; and how long they are.
pub fn read_header(bytes: &[u8]) -> Result<(Header, usize), PackError> {
    let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    let rest =
        head.strip_prefix(MAGIC.as_bytes()).and_then(|rest| rest.strip_prefix(b"\n")).ok_or(PackError::NotAPack)?;
    let end = rest.iter().position(|b| *b == b'\n').ok_or(PackError::NotAPack)?;
    let header = serde_json::from_slice(&rest[..end]).map_err(|_| PackError::NotAPack)?;
    Ok((header, MAGIC.len() + 1 + end + 1))
}

/// Opens a pack before its expiry. `seen` is the newest time at which it is known to have been read.
pub fn open(bytes: &[u8], code: &Code, now: Timestamp, seen: Timestamp) -> Result<(Header, Ward, Keys), PackError> {
    if bytes.len() > PACK_BYTES_MAX {
        return Err(PackError::NotAPack);
    }
    let (header, at) = read_header(bytes)?;
    if now.ms() >= header.expires_ms {
        return Err(PackError::Expired(Timestamp(header.expires_ms).to_string()));
    }
    let then = seen.max(Timestamp(header.made_ms));
    // Two machines' clocks differ a little.
    if now < then.plus_ms(-120_000) {
        return Err(PackError::ClockBehind { now: now.to_string(), then: then.to_string() });
    }
    let keys = Keys::of(code, &header)?;
    let (lines, sealed) = bytes.split_at(at);
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(PackError::NotAPack)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let packed =
        keys.cipher()?.open_in_place(nonce, Aad::from(lines), &mut sealed).map_err(|_| PackError::WrongCode)?;
    let plain = Zeroizing::new(zstd::bulk::decompress(packed, PACK_BYTES_MAX).map_err(|_| PackError::NotAPack)?);
    let ward = serde_json::from_slice(&plain).map_err(|_| PackError::NotAPack)?;
    Ok((header, ward, keys))
}

#[cfg(test)]
pub(crate) mod tests {
    use base::SeededEntropy;
    use proptest::prelude::*;

    use super::*;
    use crate::Sheet;

    pub const MADE: Timestamp = Timestamp(1_790_000_000_000);
    const HOUR_MS: i64 = 3_600_000;

    pub fn sealed() -> (Vec<u8>, Code) {
        let entropy = SeededEntropy::new(3);
        let code = Code::derived(&[7; 32]);
        let domain = DomainName::parse("ehr").unwrap();
        let header = Header::new(&domain, "3W", MADE, MADE.plus_ms(24 * HOUR_MS), "2026-09-21", &entropy);
        let ward = Ward { patients: vec![Sheet { name: "ZQXSENTINEL".into(), ..Sheet::default() }] };
        (seal(&header, &code, &ward, &entropy).unwrap(), code)
    }

    #[test]
    fn it_opens_with_its_code_in_its_time_and_holds_nothing_in_the_clear() {
        let (bytes, code) = sealed();
        assert!(!bytes.windows(11).any(|window| window == b"ZQXSENTINEL"));
        let (header, ward, _) = open(&bytes, &code, MADE.plus_ms(HOUR_MS), MADE).unwrap();
        assert_eq!((header.location.as_str(), ward.patients[0].name.as_str()), ("3W", "ZQXSENTINEL"));
        let refused = |code: &Code, now: i64, seen: i64| {
            open(&bytes, code, MADE.plus_ms(now), MADE.plus_ms(seen)).map(drop).unwrap_err()
        };
        assert_eq!(refused(&Code::derived(&[8; 32]), 0, 0), PackError::WrongCode);
        assert!(matches!(refused(&code, 24 * HOUR_MS, 0), PackError::Expired(_)));
        assert!(matches!(refused(&code, -HOUR_MS, 0), PackError::ClockBehind { .. }));
        assert!(matches!(refused(&code, HOUR_MS, 3 * HOUR_MS), PackError::ClockBehind { .. }));
    }

    #[test]
    fn a_changed_expiry_does_not_open() {
        let (bytes, code) = sealed();
        let (header, at) = read_header(&bytes).unwrap();
        let later = Header { expires_ms: header.expires_ms + 24 * HOUR_MS, ..header };
        let lines = format!("{MAGIC}\n{}\n", serde_json::to_string(&later).unwrap());
        let forged = [lines.as_bytes(), &bytes[at..]].concat();
        assert_eq!(open(&forged, &code, MADE, MADE).map(drop), Err(PackError::WrongCode));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..400) {
            let (good, code) = sealed();
            prop_assert!(open(&bytes, &code, MADE, MADE).is_err());
            let cut = &good[..at.min(good.len() - 1)];
            prop_assert!(open(cut, &code, MADE, MADE).is_err());
        }
    }
}
