//! Renewal of shared scopes, secrets that end, finality, damaged rows, use counts: over the fakes.

use crate::tests::{World, ehr, is_destroyed, name, open, patient, run, world};
use crate::*;

fn shared(class: &str) -> Scope {
    Scope { holder: Holder::Shared, retention: RetentionClass::parse(class).unwrap(), ..patient(1) }
}

#[test]
fn a_renewed_scope_keeps_what_lives_and_a_backup_of_what_was_dropped_is_noise_once_final() {
    run(async {
        let World { vault, root, table, clock } = world().await;
        let (ehr, scope) = (ehr(), shared("clinical"));
        let mut all = Vec::new();
        for n in 0..10u8 {
            all.push(vault.seal(name(&ehr, &[n]), &scope, &[n; 50]).await.unwrap());
        }
        let slots: Vec<Slot> = all.iter().map(|(_, slot)| *slot).collect();
        vault.put_slots(&slots).await.unwrap();
        let backup = std::sync::Arc::new(table.snapshot());

        let current = vault.renew_scope(&scope).await.unwrap();
        assert_ne!(current, slots[0].scope);
        // Wrapped before the renewal, stored after it: whoever did it does it anew.
        assert!(vault.put_slots(&slots[..1]).await.unwrap_err().is_outage());
        let (_, fresh) = vault.seal(name(&ehr, b"x"), &scope, b"x").await.unwrap();
        assert_eq!(fresh.scope, current);
        vault.delete_slots(&[slots[3].object]).await.unwrap();
        let done = vault.finish_renewal(&scope).await.unwrap();
        assert_eq!((done.slots_rewrapped, done.destroyed, done.current), (9, vec![slots[0].scope], current));
        assert_eq!(done.unreadable, []);
        for (n, (bytes, slot)) in all.iter().enumerate() {
            let opened = vault.open_object(slot.object, name(&ehr, &[n as u8]), bytes).await;
            assert_eq!(opened.is_ok(), n != 3);
            assert!(is_destroyed(vault.open_with_slot(slot, name(&ehr, &[n as u8]), bytes).await));
        }
        let old = slots[0].scope;
        assert_eq!(vault.finality(old).await.unwrap(), Finality::Destroyed { epochs: vec![Epoch(1)] });
        let (dropped, slot) = &all[3];
        let restored = open(&root, backup.clone(), &clock, 8).await;
        assert!(restored.open_object(slot.object, name(&ehr, &[3]), dropped).await.is_ok(), "not final yet");
        vault.turn_epoch().await.unwrap();
        assert_eq!(vault.finality(old).await.unwrap(), Finality::Final);
        let restored = open(&root, backup, &clock, 9).await;
        assert!(restored.open_object(slot.object, name(&ehr, &[3]), dropped).await.is_err());

        // Once more: a scope that was renewed is renewed again.
        vault.renew_scope(&scope).await.unwrap();
        assert_eq!(vault.finish_renewal(&scope).await.unwrap().slots_rewrapped, 9);
        assert!(vault.open_object(slots[0].object, name(&ehr, &[0]), &all[0].0).await.is_ok());
        vault.destroy_holder(&ehr, Holder::Shared).await.unwrap();
        assert!(is_destroyed(vault.renew_scope(&scope).await), "a scope that ended has ended");
        assert!(is_destroyed(vault.seal(name(&ehr, b"x"), &scope, b"x").await));
    });
}

#[test]
fn a_record_is_never_renewed() {
    run(async {
        let World { vault, .. } = world().await;
        vault.seal(name(&ehr(), b"1"), &patient(1), b"x").await.unwrap();
        assert!(matches!(vault.renew_scope(&patient(1)).await, Err(VaultError::Invalid(_))));
        assert!(vault.renew_scope(&vault.current_unassigned(&ehr()).await.unwrap()).await.is_err());
    });
}

#[test]
fn a_secret_of_a_scope_stands_until_it_is_renewed_and_ends_for_good() {
    run(async {
        let World { vault, root, table, clock } = world().await;
        let scope = shared("index-key");
        let (id, key) = vault.scope_secret(&scope, "pages").await.unwrap();
        assert_ne!(*key, *vault.scope_secret(&scope, "other").await.unwrap().1);
        vault.turn_epoch().await.unwrap();
        let backup = std::sync::Arc::new(table.snapshot());
        let restarted = open(&root, table.clone(), &clock, 3).await;
        assert_eq!((id, key.clone()), restarted.scope_secret(&scope, "pages").await.unwrap());

        let next = vault.renew_scope(&scope).await.unwrap();
        assert_eq!(*key, *vault.scope_secret_by_id(id, "pages").await.unwrap(), "the old one until the new one serves");
        let (standing, fresh) = vault.scope_secret(&scope, "pages").await.unwrap();
        assert!(standing == next && *fresh != *key);
        vault.finish_renewal(&scope).await.unwrap();
        assert!(is_destroyed(vault.scope_secret_by_id(id, "pages").await));
        let restored = open(&root, backup.clone(), &clock, 4).await;
        assert_eq!(*key, *restored.scope_secret_by_id(id, "pages").await.unwrap());
        vault.turn_epoch().await.unwrap();
        let restored = open(&root, backup, &clock, 5).await;
        assert!(is_destroyed(restored.scope_secret_by_id(id, "pages").await), "final");
    });
}

#[test]
fn finality_is_told_truthfully() {
    run(async {
        let World { vault, .. } = world().await;
        let (_, slot) = vault.seal(name(&ehr(), b"1"), &patient(1), b"x").await.unwrap();
        assert_eq!(vault.finality(ScopeId([7; 16])).await.unwrap(), Finality::Unknown);
        assert_eq!(vault.finality(slot.scope).await.unwrap(), Finality::Living);
        vault.turn_epoch().await.unwrap();
        vault.destroy_scope(slot.scope).await.unwrap();
        assert_eq!(vault.finality(slot.scope).await.unwrap(), Finality::Destroyed { epochs: vec![Epoch(2)] });
        vault.turn_epoch().await.unwrap();
        assert_eq!(vault.finality(slot.scope).await.unwrap(), Finality::Final);
    });
}

#[test]
fn a_damaged_scope_row_stops_neither_the_turn_nor_the_others_nor_is_it_destroyed_silently() {
    run(async {
        let World { vault, root, table, clock } = world().await;
        let ehr = ehr();
        let mut sealed = Vec::new();
        for n in 0..9u8 {
            sealed.push(vault.seal(name(&ehr, &[n]), &patient(u32::from(n) + 1), &[n; 40]).await.unwrap());
        }
        let (hurt, gone) = (sealed[4].1.scope, sealed[5].1.scope);
        vault.destroy_scope(gone).await.unwrap();
        let backup = std::sync::Arc::new(table.snapshot());
        table.damage(hurt);
        vault.forget_keys();
        for round in 1..=2 {
            let turn = vault.turn_epoch().await.unwrap();
            assert_eq!((turn.damaged, turn.kept), (vec![hurt], vec![Epoch(1)]));
            assert_eq!(turn.scopes_rewrapped, 7);
            assert_eq!(root.epochs().await.unwrap(), [Epoch(1), Epoch(1 + round)], "those between are destroyed");
        }
        for (n, (bytes, slot)) in sealed.iter().enumerate() {
            let opened = vault.open_with_slot(slot, name(&ehr, &[n as u8]), bytes).await;
            assert_eq!(opened.is_ok(), n != 4 && n != 5);
            assert!(n != 4 || matches!(opened, Err(VaultError::Tampered)), "never called destroyed");
        }
        let finality = vault.finality(gone).await.unwrap();
        assert_eq!(finality, Finality::Destroyed { epochs: vec![Epoch(1)] }, "not final while that epoch lives");
        // The next start is not stopped either, and a backup of the row still opens.
        let restarted = open(&root, table.clone(), &clock, 6).await;
        assert_eq!(restarted.finish_turn().await.unwrap().damaged, [hurt]);
        let restored = open(&root, backup, &clock, 7).await;
        assert!(restored.open_with_slot(&sealed[4].1, name(&ehr, &[4]), &sealed[4].0).await.is_ok());
        // Given up by somebody's word.
        vault.destroy_scope(hurt).await.unwrap();
        assert_eq!(vault.finish_turn().await.unwrap().destroyed, [Epoch(1)]);
        assert_eq!(vault.finality(gone).await.unwrap(), Finality::Final);
    });
}

#[test]
fn uses_are_counted_before_they_are_made_on_every_scope() {
    run(async {
        let World { vault, root, table, clock } = world().await;
        let ehr = ehr();
        // Interleaved, so that sampling across scopes would charge one of them for all.
        for n in 0..2_000u32 {
            vault.seal(name(&ehr, &n.to_be_bytes()), &patient(1 + n % 2), b"x").await.unwrap();
        }
        let uses = async |vault: &Vault, n: u32| {
            let rows = vault.scopes_of(&ehr, Holder::Record(base::Ordinal(n))).await.unwrap();
            rows.iter().map(|row| row.uses).sum::<u64>()
        };
        for n in 1..=2 {
            assert!(uses(&vault, n).await >= 1_000, "each was charged for what it wrapped");
        }
        let before = uses(&vault, 1).await;
        let restarted = open(&root, table, &clock, 7).await;
        restarted.seal(name(&ehr, b"1"), &patient(1), b"x").await.unwrap();
        assert!(uses(&restarted, 1).await > before, "what a process that ended may have used is not used again");
    });
}
