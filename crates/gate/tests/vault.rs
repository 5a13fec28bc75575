//! The audit log's keys in the vault: records open again after a restart, not while the key service is down (an outage
//! is not a missing right), and only under the node's own keys.

use std::sync::Arc;

use base::{Clock, ManualClock, SeededEntropy};
use gate::{AuditKeyError, AuditKeys, VaultAuditKeys};
use vault::{MemoryKeyTable, MemoryRootKeys, RetentionClass, Vault};

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
