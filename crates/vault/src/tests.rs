//! The vault as a whole, over the fakes: what a moved or changed value does, what destruction leaves, what a crash leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use base::{DomainName, ManualClock, Ordinal, SeededEntropy};
use proptest::prelude::*;

use crate::stream::{CHUNK_BYTES, sealed_len};
use crate::*;

pub(crate) struct World {
    pub(crate) vault: Vault,
    pub(crate) root: Arc<MemoryRootKeys>,
    pub(crate) table: Arc<MemoryKeyTable>,
    pub(crate) clock: ManualClock,
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn options() -> VaultOptions {
    VaultOptions { batch_max: 3, ..VaultOptions::default() }
}

pub(crate) async fn world() -> World {
    let root = Arc::new(MemoryRootKeys::new(Arc::new(SeededEntropy::new(1))));
    let table = Arc::new(MemoryKeyTable::new());
    let clock = ManualClock::at(1_764_000_000_000);
    let vault = open(&root, table.clone(), &clock, 2).await;
    World { vault, root, table, clock }
}

pub(crate) async fn open(
    root: &Arc<MemoryRootKeys>,
    table: Arc<dyn KeyTable>,
    clock: &ManualClock,
    seed: u64,
) -> Vault {
    let entropy = Arc::new(SeededEntropy::new(seed));
    Vault::open_with(root.clone(), table, Arc::new(clock.clone()), entropy, options()).await.unwrap()
}

pub(crate) fn ehr() -> DomainName {
    DomainName::parse("ehr").unwrap()
}

pub(crate) fn patient(n: u32) -> Scope {
    Scope {
        domain: ehr(),
        holder: Holder::Record(Ordinal(n)),
        retention: RetentionClass::parse("clinical").unwrap(),
        year: 2026,
    }
}

pub(crate) fn name<'a>(domain: &'a DomainName, id: &'a [u8]) -> ObjectName<'a> {
    ObjectName { domain, kind: Kind::Resource, id, version: 3 }
}

pub(crate) fn is_destroyed<T>(result: Result<T, VaultError>) -> bool {
    matches!(result, Err(VaultError::Destroyed))
}

#[test]
fn a_sealed_value_opens_under_its_own_name_alone() {
    run(async {
        let World { vault, .. } = world().await;
        let (ehr, lab) = (ehr(), DomainName::parse("laboratory").unwrap());
        let right = name(&ehr, b"Patient/1");
        let (sealed, slot) = vault.seal(right, &patient(1), b"EVERYWOMAN").await.unwrap();
        assert_eq!(sealed.len(), 10 + 28);
        vault.put_slots(&[slot]).await.unwrap();
        assert_eq!(vault.open_object(slot.object, right, &sealed).await.unwrap().as_slice(), b"EVERYWOMAN");
        let long = [b'x'; 400];
        for wrong in [
            ObjectName { domain: &lab, ..right },
            ObjectName { kind: Kind::Config, ..right },
            ObjectName { id: b"Patient/2", ..right },
            ObjectName { id: b"", ..right },
            ObjectName { id: &long, ..right },
            ObjectName { version: 4, ..right },
        ] {
            let opened = vault.open_object(slot.object, wrong, &sealed).await;
            assert!(matches!(opened, Err(VaultError::Tampered)), "{wrong:?}");
        }
        // Another object's slot, and another object's bytes.
        let (other_sealed, other) = vault.seal(right, &patient(1), b"EVERYWOMAN").await.unwrap();
        let swapped = Slot { object: slot.object, ..other };
        for (slot, bytes) in [(swapped, &sealed), (other, &sealed), (slot, &other_sealed)] {
            assert!(matches!(vault.open_with_slot(&slot, right, bytes).await, Err(VaultError::Tampered)));
        }
        let unknown = ObjectId([9; 16]);
        assert!(matches!(vault.open_object(unknown, right, &sealed).await, Err(VaultError::NoSlot)));
        let many = vault.open_many(&[(unknown, right, &sealed), (slot.object, right, &sealed)]).await;
        assert!(matches!(many[0], Err(VaultError::NoSlot)) && many[1].is_ok());
    });
}

#[test]
fn a_scope_the_table_lost_is_not_called_destroyed() {
    run(async {
        let (one, other) = (world().await, world().await);
        let ehr = ehr();
        let (sealed, slot) = other.vault.seal(name(&ehr, b"Patient/1"), &patient(1), b"EVERYWOMAN").await.unwrap();
        let opened = one.vault.open_with_slot(&slot, name(&ehr, b"Patient/1"), &sealed).await;
        assert!(matches!(opened, Err(VaultError::UnknownScope)));
    });
}

#[test]
fn a_raw_key_is_bound_to_its_name() {
    run(async {
        let World { vault, .. } = world().await;
        let ehr = ehr();
        let (object, key, slot) = vault.object_key(name(&ehr, b"a.parquet"), &patient(1)).await.unwrap();
        vault.put_slots(&[slot]).await.unwrap();
        assert_eq!(*vault.load_key(object, name(&ehr, b"a.parquet")).await.unwrap(), *key);
        assert_ne!(*vault.load_key(object, name(&ehr, b"b.parquet")).await.unwrap(), *key);
    });
}

#[test]
fn rewrap_keeps_the_plaintext_and_the_old_slot_dies_with_its_scope() {
    run(async {
        let World { vault, clock, .. } = world().await;
        let ehr = ehr();
        let unassigned = vault.current_unassigned(&ehr).await.unwrap();
        let Holder::Unassigned(generation) = unassigned.holder else { panic!() };
        let mut sealed = Vec::new();
        for n in 0..7u8 {
            sealed.push(vault.seal(name(&ehr, &[n]), &unassigned, &[n; 100]).await.unwrap());
        }
        let old: Vec<Slot> = sealed.iter().map(|(_, slot)| *slot).collect();
        let new = vault.rewrap(&old, &patient(1)).await.unwrap();
        assert_eq!(new.len(), 7);
        assert!(vault.retire_unassigned(&ehr, generation).await.is_err(), "in use");
        vault.roll_unassigned(&ehr);
        assert!(vault.retire_unassigned(&ehr, generation).await.is_err(), "an append may be on its way");
        clock.advance_ms(options().unassigned_grace_ms);
        assert_eq!(vault.living_unassigned(&ehr).await.unwrap(), vec![generation]);
        vault.retire_unassigned(&ehr, generation).await.unwrap();
        assert!(vault.living_unassigned(&ehr).await.unwrap().is_empty());
        for (n, (bytes, slot)) in sealed.iter().enumerate() {
            let id = [n as u8];
            assert!(is_destroyed(vault.open_with_slot(slot, name(&ehr, &id), bytes).await));
            let plain = vault.open_object(slot.object, name(&ehr, &id), bytes).await.unwrap();
            assert_eq!(plain.as_slice(), [n as u8; 100]);
        }
        // A replay brings the slots of the frames once more.
        assert_eq!(vault.rewrap(&old, &patient(1)).await.unwrap().len(), 7);
        vault.destroy_holder(&ehr, Holder::Record(Ordinal(1))).await.unwrap();
        assert!(is_destroyed(vault.rewrap(&old, &patient(2)).await));
        assert!(is_destroyed(vault.rewrap(&new, &patient(2)).await));
    });
}

#[test]
fn a_destroyed_scope_opens_nothing_takes_nothing_and_a_backup_is_noise_once_the_epoch_turned() {
    run(async {
        let World { vault, root, table, clock } = world().await;
        let ehr = ehr();
        let (sealed, slot) = vault.seal(name(&ehr, b"1"), &patient(1), b"gone").await.unwrap();
        let (kept, kept_slot) = vault.seal(name(&ehr, b"2"), &patient(2), b"kept").await.unwrap();
        vault.put_slots(&[slot, kept_slot]).await.unwrap();
        let backup = Arc::new(table.snapshot());
        vault.destroy_scope(slot.scope).await.unwrap();
        assert!(matches!(vault.open_object(slot.object, name(&ehr, b"1"), &sealed).await, Err(VaultError::NoSlot)));
        assert!(is_destroyed(vault.open_with_slot(&slot, name(&ehr, b"1"), &sealed).await));
        assert!(is_destroyed(vault.seal(name(&ehr, b"1"), &patient(1), b"again").await));

        let restored = open(&root, backup.clone(), &clock, 3).await;
        assert!(restored.open_object(slot.object, name(&ehr, b"1"), &sealed).await.is_ok(), "not final yet");
        let turn = vault.turn_epoch().await.unwrap();
        assert_eq!((turn.destroyed.len(), turn.scopes_rewrapped), (1, 1));
        let restored = open(&root, backup, &clock, 4).await;
        assert!(is_destroyed(restored.open_object(slot.object, name(&ehr, b"1"), &sealed).await), "final");
        let restarted = open(&root, table, &clock, 5).await;
        let plain = restarted.open_object(kept_slot.object, name(&ehr, b"2"), &kept).await.unwrap();
        assert_eq!(plain.as_slice(), b"kept");
    });
}

#[test]
fn epochs_turn_while_objects_are_sealed_and_opened() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let World { vault, root, .. } = world().await;
        let seal_some = |worker: u32| {
            let vault = vault.clone();
            tokio::spawn(async move {
                let ehr = ehr();
                let mut sealed = Vec::new();
                for n in 0..200u32 {
                    let scope = patient(worker * 1_000 + n % 50);
                    let (bytes, slot) = vault.seal(name(&ehr, &n.to_be_bytes()), &scope, &[7; 33]).await.unwrap();
                    vault.forget_keys();
                    vault.open_with_slot(&slot, name(&ehr, &n.to_be_bytes()), &bytes).await.unwrap();
                    sealed.push((n, bytes, slot));
                    tokio::task::yield_now().await;
                }
                sealed
            })
        };
        let workers: Vec<_> = (0..4).map(seal_some).collect();
        for _ in 0..20 {
            vault.turn_epoch().await.unwrap();
            tokio::task::yield_now().await;
        }
        for worker in workers {
            for (n, bytes, slot) in worker.await.unwrap() {
                vault.open_with_slot(&slot, name(&ehr(), &n.to_be_bytes()), &bytes).await.unwrap();
            }
        }
        vault.turn_epoch().await.unwrap();
        assert_eq!(root.epochs().await.unwrap().len(), 1);
    });
}

/// A table that fails after so many changes of scopes, before or after they were stored.
struct Failing {
    inner: Arc<MemoryKeyTable>,
    changes_left: AtomicI64,
    persisted: bool,
}

#[async_trait]
impl KeyTable for Failing {
    async fn get_slots(&self, objects: &[ObjectId]) -> Result<Vec<Option<Slot>>, VaultError> {
        self.inner.get_slots(objects).await
    }
    async fn put_slots(&self, slots: &[Slot]) -> Result<(), VaultError> {
        self.inner.put_slots(slots).await
    }
    async fn delete_slots(&self, objects: &[ObjectId]) -> Result<(), VaultError> {
        self.inner.delete_slots(objects).await
    }
    async fn find_slots(&self, scope: ScopeId, after: Option<ObjectId>, max: usize) -> Result<Vec<Slot>, VaultError> {
        self.inner.find_slots(scope, after, max).await
    }
    async fn find_scopes(&self, query: &ScopeQuery, after: Option<&[u8]>, max: usize) -> Result<ScopePage, VaultError> {
        self.inner.find_scopes(query, after, max).await
    }
    async fn insert_scope(&self, row: &ScopeRow) -> Result<ScopeRow, VaultError> {
        self.inner.insert_scope(row).await
    }
    async fn change_scopes(&self, changes: &[ScopeChange]) -> Result<(), VaultError> {
        if self.changes_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            if self.persisted {
                self.inner.change_scopes(changes).await?;
            }
            return Err(VaultError::outage("the key table", "the power is cut"));
        }
        self.inner.change_scopes(changes).await
    }
    async fn destroy_scope(&self, id: ScopeId) -> Result<(), VaultError> {
        self.inner.destroy_scope(id).await
    }
}

#[async_trait]
impl SecretTable for Failing {
    async fn secret(&self, name: &str, first: Option<&[u8]>) -> Result<Option<Vec<u8>>, VaultError> {
        self.inner.secret(name, first).await
    }
    async fn replace_secret(&self, name: &str, from: &[u8], to: &[u8]) -> Result<bool, VaultError> {
        self.inner.replace_secret(name, from, to).await
    }
}

#[test]
fn a_crash_in_the_middle_of_a_turn_loses_no_key() {
    for crash_after in 0..5 {
        for persisted in [false, true] {
            run(async {
                let World { vault, root, table, clock } = world().await;
                let ehr = ehr();
                let mut sealed = Vec::new();
                for n in 0..11u8 {
                    let scope = patient(u32::from(n) + 1);
                    sealed.push(vault.seal(name(&ehr, &[n]), &scope, &[n; 40]).await.unwrap());
                }
                let changes_left = AtomicI64::new(crash_after);
                let failing = Arc::new(Failing { inner: table.clone(), changes_left, persisted });
                let crashing = open(&root, failing, &clock, 7).await;
                assert_eq!(crashing.turn_epoch().await.is_err(), crash_after < 4);
                // Before and after the turn is finished by the next start, everything opens.
                let restarted = open(&root, table.clone(), &clock, 8).await;
                for round in 0..2 {
                    restarted.forget_keys();
                    for (n, (bytes, slot)) in sealed.iter().enumerate() {
                        let plain = restarted.open_with_slot(slot, name(&ehr, &[n as u8]), bytes).await.unwrap();
                        assert_eq!(plain.as_slice(), [n as u8; 40], "round {round}");
                    }
                    restarted.finish_turn().await.unwrap();
                    assert_eq!(root.epochs().await.unwrap().len(), 1);
                }
            });
        }
    }
}

#[test]
fn an_outage_is_an_outage_and_what_is_cached_goes_on() {
    run(async {
        let World { vault, root, .. } = world().await;
        let ehr = ehr();
        let (sealed, slot) = vault.seal(name(&ehr, b"1"), &patient(1), b"x").await.unwrap();
        root.set_down(true);
        assert!(vault.open_with_slot(&slot, name(&ehr, b"1"), &sealed).await.is_ok(), "cached");
        let refused = vault.seal(name(&ehr, b"1"), &patient(2), b"x").await.unwrap_err();
        assert!(refused.is_outage());
        vault.forget_keys();
        assert!(vault.open_with_slot(&slot, name(&ehr, b"1"), &sealed).await.unwrap_err().is_outage());
        root.set_down(false);
        assert!(vault.open_with_slot(&slot, name(&ehr, b"1"), &sealed).await.is_ok());
    });
}

#[test]
fn a_worn_key_is_followed_by_another() {
    run(async {
        let World { root, table, clock, .. } = world().await;
        let entropy = Arc::new(SeededEntropy::new(9));
        let options = VaultOptions { scope_wraps_max: 3, ..options() };
        let vault = Vault::open_with(root, table.clone(), Arc::new(clock), entropy, options).await.unwrap();
        let ehr = ehr();
        let mut all = Vec::new();
        for n in 0..10u8 {
            all.push((n, vault.seal(name(&ehr, &[n]), &patient(1), &[n]).await.unwrap()));
        }
        let rows = vault.scopes_of(&ehr, Holder::Record(Ordinal(1))).await.unwrap();
        assert!(rows.len() > 1, "{} generations", rows.len());
        for (n, (bytes, slot)) in &all {
            assert_eq!(vault.open_with_slot(slot, name(&ehr, &[*n]), bytes).await.unwrap().as_slice(), [*n]);
        }
        assert_eq!(vault.destroy_holder(&ehr, Holder::Record(Ordinal(1))).await.unwrap(), rows.len() as u64);
        for (n, (bytes, slot)) in &all {
            assert!(is_destroyed(vault.open_with_slot(slot, name(&ehr, &[*n]), bytes).await));
        }
    });
}

#[test]
fn derived_and_named_secrets_are_the_same_after_a_restart_and_after_a_turn() {
    run(async {
        let World { vault, root, table, clock } = world().await;
        let derived = vault.derive("index");
        assert_ne!(*derived, *vault.derive("audit-token"));
        let seed = vault.ed25519_seed("checkpoint").await.unwrap();
        let pkcs8 = vault.es256_pkcs8("tokens").await.unwrap();
        vault.turn_epoch().await.unwrap();
        let again = open(&root, table.clone(), &clock, 99).await;
        assert_eq!(*derived, *again.derive("index"));
        assert_eq!(*seed, *again.ed25519_seed("checkpoint").await.unwrap());
        assert_ne!(*seed, *again.ed25519_seed("another").await.unwrap());
        assert_eq!(*pkcs8, *again.es256_pkcs8("tokens").await.unwrap());
        let other = Arc::new(MemoryRootKeys::new(Arc::new(SeededEntropy::new(50))));
        let entropy = Arc::new(SeededEntropy::new(51));
        let foreign = Vault::open(other, table, Arc::new(clock), entropy).await;
        assert!(matches!(foreign, Err(VaultError::WrongRoot)));
    });
}

#[test]
fn unassigned_rolls_by_count_and_by_time() {
    run(async {
        let World { root, table, clock, .. } = world().await;
        let options = VaultOptions { unassigned_uses_max: 3, unassigned_ttl_ms: 1_000, ..options() };
        let entropy = Arc::new(SeededEntropy::new(9));
        let vault = Vault::open_with(root, table, Arc::new(clock.clone()), entropy, options).await.unwrap();
        let mut seen = Vec::new();
        for step in 0..8 {
            clock.advance_ms(if step == 6 { 1_000 } else { 0 });
            seen.push(vault.current_unassigned(&ehr()).await.unwrap());
        }
        let same: Vec<bool> = seen.windows(2).map(|pair| pair[0] == pair[1]).collect();
        assert_eq!(same, [true, true, false, true, true, false, true]);
    });
}

#[test]
fn slots_round_trip_and_refuse_other_lengths() {
    let bytes: Vec<u8> = (0..Slot::BYTES as u8).collect();
    let slot = Slot::from_bytes(&bytes).unwrap();
    assert_eq!(slot.to_bytes().as_slice(), bytes);
    assert!(Slot::from_bytes(&bytes[1..]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trips_and_a_flipped_bit_never_opens(
        plain in proptest::collection::vec(any::<u8>(), 0..2_000),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        run(async {
            let World { vault, .. } = world().await;
            let ehr = ehr();
            let named = name(&ehr, b"1");
            let (sealed, slot) = vault.seal(named, &patient(1), &plain).await.unwrap();
            let opened = vault.open_with_slot(&slot, named, &sealed).await.unwrap();
            prop_assert_eq!(opened.as_slice(), &plain);
            let mut flipped = sealed.clone();
            flipped[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(vault.open_with_slot(&slot, named, &flipped).await.is_err());
            prop_assert!(vault.open_with_slot(&slot, named, &sealed[..cut.index(sealed.len())]).await.is_err());
            let mut bytes = slot.to_bytes();
            bytes[at.index(Slot::BYTES)] ^= 1 << bit;
            let slot = Slot::from_bytes(&bytes).unwrap();
            prop_assert!(vault.open_with_slot(&slot, named, &sealed).await.is_err());
            Ok(())
        })?;
    }

    #[test]
    fn streams_round_trip_and_show_truncation_reordering_and_change(
        len in prop_oneof![0usize..300, (1..4usize, 0..3usize).prop_map(|(n, d)| n * CHUNK_BYTES + d - 1)],
        piece in 1usize..200_000,
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        run(async {
            let World { vault, .. } = world().await;
            let ehr = ehr();
            let named = name(&ehr, b"scan");
            let plain: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let (mut sealer, slot) = vault.seal_stream(named, &patient(1)).await.unwrap();
            let mut sealed = Vec::new();
            for part in plain.chunks(piece) {
                sealer.push(part, &mut sealed).unwrap();
            }
            sealer.finish(&mut sealed).unwrap();
            prop_assert_eq!(sealed.len() as u64, sealed_len(len as u64));
            let open = async |bytes: &[u8], named: ObjectName<'_>| {
                let mut opener = vault.open_stream_with_slot(&slot, named).await?;
                let mut out = Vec::new();
                for part in bytes.chunks(piece) {
                    opener.push(part, &mut out)?;
                }
                opener.finish(&mut out)?;
                Ok::<_, VaultError>(out)
            };
            prop_assert_eq!(&open(&sealed, named).await.unwrap(), &plain);
            let renamed = ObjectName { version: 9, ..named };
            prop_assert!(open(&sealed, renamed).await.is_err());
            let mut flipped = sealed.clone();
            flipped[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(open(&flipped, named).await.is_err());
            prop_assert!(open(&sealed[..at.index(sealed.len())], named).await.is_err(), "cut anywhere");
            let whole = 11 + CHUNK_BYTES + 16;
            if sealed.len() > whole {
                prop_assert!(open(&sealed[..whole], named).await.is_err(), "cut at a chunk");
                let mut longer = sealed.clone();
                longer.extend_from_slice(&sealed[11..whole]);
                prop_assert!(open(&longer, named).await.is_err(), "a chunk more");
            }
            if sealed.len() > whole + CHUNK_BYTES + 16 {
                let mut swapped = sealed[..11].to_vec();
                swapped.extend_from_slice(&sealed[whole..whole + CHUNK_BYTES + 16]);
                swapped.extend_from_slice(&sealed[11..whole]);
                swapped.extend_from_slice(&sealed[whole + CHUNK_BYTES + 16..]);
                prop_assert!(open(&swapped, named).await.is_err(), "another order");
            }
            Ok(())
        })?;
    }
}
