//! The audit log's keys in the vault: records open again after a restart, not while the key service is down (an outage
//! is not a missing right), and only under the node's own keys.

use std::sync::Arc;

use base::{Clock, DomainName, ManualClock, Ordinal, SeededEntropy};
use gate::{AuditKeyError, AuditKeys, VaultAuditKeys};
use vault::{Holder, Kind, MemoryKeyTable, MemoryRootKeys, ObjectName, RetentionClass, Scope, Vault};

#[tokio::test]
async fn generations_survive_a_restart() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(1_790_000_000_000));
    let entropy = Arc::new(SeededEntropy::new(5));
    let root = Arc::new(MemoryRootKeys::new(entropy.clone()));
    let table = Arc::new(MemoryKeyTable::new());
    let start = || async {
        let vault = Vault::open(root.clone(), table.clone(), clock.clone(), entropy.clone()).await.unwrap();
        VaultAuditKeys::new(vault, clock.clone(), RetentionClass::parse("audit-6y").unwrap())
    };
    let keys = start().await;
    let (one, two) = (keys.begin().await.unwrap(), keys.begin().await.unwrap());
    assert!(one.id != two.id && one.key != two.key);
    let again = start().await;
    assert!(again.load(one.id).await.unwrap() == one.key);
    assert!(again.load(two.id).await.unwrap() == two.key);
    assert!(again.derive("audit-token") == keys.derive("audit-token"));
    assert!(again.derive("audit-token") != keys.derive("audit-query"));
    assert_eq!(again.load([0; 16]).await.unwrap_err(), AuditKeyError::Destroyed);
    root.set_down(true);
    assert_eq!(again.begin().await.map(|_| ()).unwrap_err(), AuditKeyError::Outage);
}

/// Six years, with keys of their own: a patient's erasure does not reach them, their own retention does.
#[tokio::test]
async fn generations_outlive_a_patient_and_end_with_their_years() {
    const DAY_MS: i64 = 86_400_000;
    let clock = ManualClock::at(1_790_000_000_000);
    assert_eq!(clock.now().year(), 2026);
    let entropy = Arc::new(SeededEntropy::new(5));
    let (root, table) = (Arc::new(MemoryRootKeys::new(entropy.clone())), Arc::new(MemoryKeyTable::new()));
    let vault = Vault::open(root, table, Arc::new(clock.clone()), entropy).await.unwrap();
    let keys = VaultAuditKeys::new(vault.clone(), Arc::new(clock.clone()), RetentionClass::parse("audit-6y").unwrap());
    let (old, token) = (keys.begin().await.unwrap(), keys.derive("audit-token"));

    // The patient's own data, and governance facts, have other scopes.
    let (ehr, governance) = (DomainName::parse("ehr").unwrap(), DomainName::parse("governance").unwrap());
    let patient = Holder::Record(Ordinal(7));
    let scope = |domain: &DomainName, holder, retention: &str, year| Scope {
        domain: domain.clone(),
        holder,
        retention: RetentionClass::parse(retention).unwrap(),
        year,
    };
    let name = |domain| ObjectName { domain, kind: Kind::Resource, id: b"x", version: 1 };
    let own = scope(&ehr, patient, "clinical-6y", 2026);
    let (sealed, slot) = vault.seal(name(&ehr), &own, b"potassium").await.unwrap();
    let fact = scope(&governance, Holder::Shared, "governance", 0);
    let (fact_sealed, fact_slot) = vault.seal(name(&governance), &fact, b"hold").await.unwrap();
    vault.destroy_holder(&ehr, patient).await.unwrap();
    assert!(vault.open_with_slot(&slot, name(&ehr), &sealed).await.is_err());
    assert!(keys.load(old.id).await.unwrap() == old.key && keys.derive("audit-token") == token);

    // Until the end of the sixth year after 2026 nothing is due.
    clock.advance_ms(6 * 365 * DAY_MS);
    assert_eq!(clock.now().year(), 2032);
    let new = keys.begin().await.unwrap();
    assert_eq!(keys.expire(2032 - 6).await.unwrap(), 0);
    assert!(keys.load(old.id).await.unwrap() == old.key);
    assert_eq!(keys.expire(2033 - 6).await.unwrap(), 1);
    assert_eq!(keys.load(old.id).await.unwrap_err(), AuditKeyError::Destroyed);
    assert!(keys.load(new.id).await.unwrap() == new.key);
    assert_eq!(&*vault.open_with_slot(&fact_slot, name(&governance), &fact_sealed).await.unwrap(), b"hold");
}
