//! [`RootKeys`] within limits of time and number. A key service that hangs becomes an outage of known length, and what
//! waits for it is never more than `calls_max`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::{Epoch, Plain, RootKeys, VaultError, WrapItem};

const THE_SERVICE: &str = "the key service";

/// A call of the root keys has so much time, waiting for its turn included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    pub(crate) call_ms_max: u64,
    pub(crate) calls_max: usize,
}

/// See the module. After a call that ran out of time the others fail at once for [`VaultError::RETRY_AFTER_MS`], so that
/// not each request waits that long for itself.
pub(crate) struct BoundedRoot {
    root: Arc<dyn RootKeys>,
    limits: CallLimits,
    calls: Arc<Semaphore>,
    resting_until: Mutex<Option<Instant>>,
}

impl BoundedRoot {
    pub(crate) fn new(root: Arc<dyn RootKeys>, limits: CallLimits) -> Self {
        let calls = Arc::new(Semaphore::new(limits.calls_max.max(1)));
        BoundedRoot { root, limits, calls, resting_until: Mutex::new(None) }
    }

    fn is_resting(&self) -> Result<(), VaultError> {
        let until = *self.resting_until.lock();
        match until.and_then(|until| until.checked_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => Err(VaultError::Outage {
                what: THE_SERVICE,
                retry_after_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1),
                source: None,
            }),
            _ => Ok(()),
        }
    }

    fn ran_out(&self) -> VaultError {
        *self.resting_until.lock() = Some(Instant::now() + Duration::from_millis(VaultError::RETRY_AFTER_MS));
        VaultError::outage(THE_SERVICE, format!("no answer within {} ms", self.limits.call_ms_max))
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.limits.call_ms_max)
    }

    /// For calls that change nothing: they may be dropped on the way.
    async fn ask<T>(&self, call: impl Future<Output = Result<T, VaultError>>) -> Result<T, VaultError> {
        self.is_resting()?;
        let within = async {
            let _turn = self.calls.acquire().await.map_err(|error| VaultError::outage(THE_SERVICE, error))?;
            call.await
        };
        tokio::time::timeout(self.time(), within).await.unwrap_or_else(|_| Err(self.ran_out()))
    }

    /// For calls that change something: they go on to their end, whoever still waits for it.
    async fn change<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, VaultError>> + Send + 'static,
    ) -> Result<T, VaultError> {
        self.is_resting()?;
        let calls = self.calls.clone();
        let work = tokio::spawn(async move {
            let _turn = calls.acquire().await.map_err(|error| VaultError::outage(THE_SERVICE, error))?;
            call.await
        });
        match tokio::time::timeout(self.time(), work).await {
            Ok(done) => done.unwrap_or_else(|error| Err(VaultError::outage(THE_SERVICE, error))),
            Err(_) => Err(self.ran_out()),
        }
    }
}

#[async_trait]
impl RootKeys for BoundedRoot {
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        self.ask(self.root.epochs()).await
    }

    async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError> {
        self.ask(self.root.begun(epoch)).await
    }

    async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError> {
        let root = self.root.clone();
        self.change(async move { root.begin_epoch(now).await }).await
    }

    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
        self.ask(self.root.wrap(epoch, items)).await
    }

    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        self.ask(self.root.unwrap(epoch, items)).await
    }

    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
        let root = self.root.clone();
        self.change(async move { root.destroy_epoch(epoch).await }).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base::SeededEntropy;
    use tokio::sync::watch;

    use super::*;
    use crate::{Holder, Kind, MemoryKeyTable, MemoryRootKeys, ObjectName, RetentionClass, Scope, Vault, VaultOptions};

    /// Hangs while told to; counts who waits in it.
    struct Slow {
        root: MemoryRootKeys,
        hangs: watch::Sender<bool>,
        inside: AtomicUsize,
        inside_max: AtomicUsize,
    }

    impl Slow {
        fn new() -> Arc<Slow> {
            let root = MemoryRootKeys::new(Arc::new(SeededEntropy::new(1)));
            let (inside, inside_max) = Default::default();
            Arc::new(Slow { root, hangs: watch::Sender::new(false), inside, inside_max })
        }

        async fn pass(&self) {
            struct Leave<'a>(&'a AtomicUsize);
            impl Drop for Leave<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            let now = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            let _leave = Leave(&self.inside);
            self.inside_max.fetch_max(now, Ordering::SeqCst);
            let _ = self.hangs.subscribe().wait_for(|hangs| !hangs).await;
        }
    }

    #[async_trait]
    impl RootKeys for Slow {
        async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
            self.pass().await;
            self.root.epochs().await
        }
        async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError> {
            self.pass().await;
            self.root.begun(epoch).await
        }
        async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError> {
            self.pass().await;
            self.root.begin_epoch(now).await
        }
        async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
            self.pass().await;
            self.root.wrap(epoch, items).await
        }
        async fn unwrap(
            &self,
            epoch: Epoch,
            items: &[WrapItem<'_>],
        ) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
            self.pass().await;
            self.root.unwrap(epoch, items).await
        }
        async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
            self.pass().await;
            self.root.destroy_epoch(epoch).await
        }
    }

    const LIMITS: CallLimits = CallLimits { call_ms_max: 50, calls_max: 3 };

    #[tokio::test]
    async fn the_limits_keep_the_contract() {
        let bounded = BoundedRoot::new(Arc::new(MemoryRootKeys::new(Arc::new(SeededEntropy::new(1)))), LIMITS);
        crate::contract::root_keys(&bounded).await;
    }

    /// Without the limits this test would never end.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_root_that_hangs_is_an_outage_and_recovers_by_itself() {
        let slow = Slow::new();
        let options = VaultOptions {
            root_call_ms_max: LIMITS.call_ms_max,
            root_calls_max: LIMITS.calls_max,
            ..VaultOptions::default()
        };
        let (table, clock) = (Arc::new(MemoryKeyTable::default()), Arc::new(base::ManualClock::at(1_000)));
        let entropy = Arc::new(SeededEntropy::new(2));
        let vault = Vault::open_with(slow.clone(), table, clock, entropy, options).await.unwrap();
        let domain = base::DomainName::parse("ehr").unwrap();
        let retention = RetentionClass::parse("clinical").unwrap();
        let scope = |n| Scope {
            domain: domain.clone(),
            holder: Holder::Record(base::Ordinal(n)),
            retention: retention.clone(),
            year: 2026,
        };
        let name = ObjectName { domain: &domain, kind: Kind::JournalPart, id: b"1", version: 0 };
        let (sealed, slot) = vault.seal(name, &scope(1), b"note").await.unwrap();
        vault.forget_keys();

        slow.hangs.send_replace(true);
        let mut asking = tokio::task::JoinSet::new();
        for n in 0..40 {
            let (vault, scope) = (vault.clone(), scope(n));
            asking.spawn(async move { vault.scope(&scope).await.map(|_| ()) });
        }
        while let Some(answer) = asking.join_next().await {
            assert!(answer.unwrap().unwrap_err().is_outage(), "a hanging root is an outage, never a missing key");
        }
        assert!(slow.inside_max.load(Ordering::SeqCst) <= LIMITS.calls_max, "more were let in than the limit says");
        assert!(vault.open_with_slot(&slot, name, &sealed).await.unwrap_err().is_outage());
        assert!(vault.turn_epoch().await.unwrap_err().is_outage());

        slow.hangs.send_replace(false);
        // The rest after the last failure passes.
        loop {
            match vault.open_with_slot(&slot, name, &sealed).await {
                Ok(plain) => break assert_eq!(plain.as_slice(), b"note"),
                Err(VaultError::Outage { retry_after_ms, .. }) => {
                    assert!(retry_after_ms <= VaultError::RETRY_AFTER_MS);
                    tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let turn = vault.turn_epoch().await.unwrap();
        assert!(turn.kept.is_empty() && turn.damaged.is_empty());
        assert_eq!(
            vault.living_epochs().await.unwrap(),
            [turn.current],
            "one that began during the outage is gone too"
        );
        vault.forget_keys();
        assert_eq!(vault.open_with_slot(&slot, name, &sealed).await.unwrap().as_slice(), b"note");
    }
}
