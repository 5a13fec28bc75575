//! The unassigned scope: what a door took in and refine has not yet given to its source record.
//!
//! Its keys are short-lived generations. A generation rolls by count and by time, and is destroyed once every entry
//! sealed under it was re-wrapped; then the slots that lie in the frames of the log open nothing.

use std::collections::HashMap;

use base::{DomainName, Timestamp};
use parking_lot::Mutex;

use crate::vault::Vault;
use crate::{Holder, RetentionClass, Scope, ScopeQuery, VaultError};

/// The generations this process hands out.
#[derive(Debug, Default)]
pub(crate) struct Generations(Mutex<HashMap<DomainName, Handed>>);

#[derive(Debug)]
struct Handed {
    scope: Scope,
    number: u64,
    since: Timestamp,
    uses: u64,
    /// Those rolled out of use, with the time when that was; an append may still be on its way with one.
    rolled: Vec<(u64, Timestamp)>,
}

impl Vault {
    /// The scope for what comes in now. No IO: its key is made when the first object is sealed.
    pub async fn current_unassigned(&self, domain: &DomainName) -> Result<Scope, VaultError> {
        let now = self.inner.clock.now();
        let options = &self.inner.options;
        let mut handed = self.inner.unassigned.0.lock();
        if let Some(current) = handed.get_mut(domain) {
            let age_ms = now.0.saturating_sub(current.since.0);
            if current.uses < options.unassigned_uses_max && age_ms < options.unassigned_ttl_ms {
                current.uses += 1;
                return Ok(current.scope.clone());
            }
            current.roll(domain, now, options.unassigned_grace_ms);
            return Ok(current.scope.clone());
        }
        // Generations are named by the time they begin, so that a restart needs no look at the table; a random part
        // keeps two starts within a millisecond, or under a clock set back, apart.
        let number = generation_at(now) | (u64::from(self.inner.random.bytes::<1>()[0]) << 3);
        let scope = scope_of(domain, number, now);
        handed.insert(domain.clone(), Handed { scope: scope.clone(), number, since: now, uses: 1, rolled: Vec::new() });
        Ok(scope)
    }

    /// Begins the next generation now, so that the one before can be retired after the grace time.
    pub fn roll_unassigned(&self, domain: &DomainName) {
        let now = self.inner.clock.now();
        if let Some(current) = self.inner.unassigned.0.lock().get_mut(domain) {
            current.roll(domain, now, self.inner.options.unassigned_grace_ms);
        }
    }

    /// The generations of the domain whose keys live, in ascending order.
    pub async fn living_unassigned(&self, domain: &DomainName) -> Result<Vec<u64>, VaultError> {
        // A damaged row is not retired: `Vault::turn_epoch` tells of it.
        let (rows, _) = self.all_scopes(&ScopeQuery::LivingUnassigned(domain.clone())).await?;
        let mut numbers: Vec<u64> = rows
            .iter()
            .filter_map(|row| match row.scope.holder {
                Holder::Unassigned(number) => Some(number),
                _ => None,
            })
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Destroys a generation. The caller says by this call that every entry sealed under it was re-wrapped. Refused
    /// while it is in use, or was so recently that an append may still be on its way with it.
    pub async fn retire_unassigned(&self, domain: &DomainName, generation: u64) -> Result<(), VaultError> {
        let now = self.inner.clock.now();
        if let Some(current) = self.inner.unassigned.0.lock().get(domain) {
            let fresh = |(number, at): &(u64, Timestamp)| {
                *number == generation && now.0.saturating_sub(at.0) < self.inner.options.unassigned_grace_ms
            };
            if current.number == generation || current.rolled.iter().any(fresh) {
                return Err(VaultError::Invalid("the unassigned generation is still in use: retire it later"));
            }
        }
        self.destroy_holder(domain, Holder::Unassigned(generation)).await?;
        Ok(())
    }
}

impl Handed {
    fn roll(&mut self, domain: &DomainName, now: Timestamp, grace_ms: i64) {
        self.rolled.retain(|(_, at)| now.0.saturating_sub(at.0) < grace_ms);
        self.rolled.push((self.number, now));
        self.number = generation_at(now).max(self.number + 1);
        self.scope = scope_of(domain, self.number, now);
        self.since = now;
        self.uses = 1;
    }
}

/// Milliseconds since 1970, with room for 2,048 generations within each; fits a signed 64-bit column for 140,000 years.
fn generation_at(now: Timestamp) -> u64 {
    u64::try_from(now.0).unwrap_or(0) << 11
}

fn scope_of(domain: &DomainName, generation: u64, now: Timestamp) -> Scope {
    Scope {
        domain: domain.clone(),
        holder: Holder::Unassigned(generation),
        retention: RetentionClass::unassigned(),
        year: u16::try_from(now.year()).unwrap_or(0),
    }
}
