//! Sealing and opening by the vault, one core, beside the bare cipher in the same run.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base::{Clock, DomainName, SystemClock, SystemEntropy};
use vault::{Holder, Kind, MemoryKeyTable, MemoryRootKeys, ObjectName, RetentionClass, Scope, Vault};

use super::figure::Figure;
use super::{Plan, failed};
use crate::commands::{Failure, Result, progress};

pub async fn figures(plan: &Plan) -> Result<Vec<Figure>> {
    let entropy = Arc::new(SystemEntropy);
    let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
    let table = Arc::new(MemoryKeyTable::new());
    let vault = Vault::open(root, table, Arc::new(SystemClock), entropy).await.map_err(failed)?;
    let domain = DomainName::parse("ehr").map_err(failed)?;
    let retention = RetentionClass::parse("clinical-6y").map_err(failed)?;
    let year = u16::try_from(SystemClock.now().year()).unwrap_or(u16::MAX);
    let scope = Scope { domain: domain.clone(), holder: Holder::Shared, retention, year };
    let name = ObjectName { domain: &domain, kind: Kind::Resource, id: b"Patient/1", version: 1 };
    // Four figures for each size share the time.
    let time = plan.time / 2;
    let mut figures = Vec::new();
    for (bytes, shown) in [(1 << 10, "1 KiB"), (16 << 10, "16 KiB")] {
        progress(&format!("seal and open: {shown}"));
        let plain = vec![0x5a; bytes];
        let (sealed, slot) = vault.seal(name, &scope, &plain).await.map_err(failed)?;
        let raw = raw_seal(&plain, time)?;
        let raw_open = raw_open(&plain, time)?;
        let mut seal = Timed::begin(time);
        while seal.goes_on() {
            black_box(vault.seal(name, &scope, black_box(&plain)).await.map_err(failed)?);
        }
        let mut open = Timed::begin(time);
        while open.goes_on() {
            black_box(vault.open_with_slot(&slot, name, black_box(&sealed)).await.map_err(failed)?);
        }
        for (what, ours, bare) in [("seal", seal.per_second(), raw), ("open", open.per_second(), raw_open)] {
            let bare_mb = bare * bytes as f64 / 1e6;
            figures.push(Figure::new(format!("{what} {shown}"), ours, "objects/s").under(format!(
                "one core, {:.0} MB/s; a key, its wrap and bound data for each object; bare AES-256-GCM under one key \
                     {bare:.0}/s ({bare_mb:.0} MB/s), {:.2} × as fast",
                ours * bytes as f64 / 1e6,
                bare / ours
            )));
        }
    }
    Ok(figures)
}

/// Counts rounds until a time is over; the clock is looked at every few rounds.
struct Timed {
    begun: Instant,
    time: Duration,
    rounds: u64,
    took: Duration,
}

impl Timed {
    fn begin(time: Duration) -> Timed {
        Timed { begun: Instant::now(), time, rounds: 0, took: time }
    }

    fn goes_on(&mut self) -> bool {
        if self.rounds.is_multiple_of(64) {
            self.took = self.begun.elapsed();
            if self.rounds > 0 && self.took >= self.time {
                return false;
            }
        }
        self.rounds += 1;
        true
    }

    fn per_second(&self) -> f64 {
        self.rounds as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

fn bare_key() -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, &[9; 32]).map_err(|_| Failure::said("the cipher takes no key"))?;
    Ok(LessSafeKey::new(key))
}

fn nonce(count: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&count.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn raw_seal(plain: &[u8], time: Duration) -> Result<f64> {
    let key = bare_key()?;
    let mut timed = Timed::begin(time);
    while timed.goes_on() {
        let mut body = Vec::with_capacity(plain.len() + 16);
        body.extend_from_slice(black_box(plain));
        key.seal_in_place_append_tag(nonce(timed.rounds), Aad::empty(), &mut body)
            .map_err(|_| Failure::said("the cipher does not seal"))?;
        black_box(body);
    }
    Ok(timed.per_second())
}

fn raw_open(plain: &[u8], time: Duration) -> Result<f64> {
    let key = bare_key()?;
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(nonce(0), Aad::empty(), &mut sealed)
        .map_err(|_| Failure::said("the cipher does not seal"))?;
    let mut timed = Timed::begin(time);
    while timed.goes_on() {
        let mut body = black_box(&sealed).clone();
        key.open_in_place(nonce(0), Aad::empty(), &mut body).map_err(|_| Failure::said("the cipher does not open"))?;
        black_box(body);
    }
    Ok(timed.per_second())
}
