//! The fake of [`RootKeys`]: keeps its word until the process ends. [`MemoryRootKeys::set_down`] plays an outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use base::{Entropy, Timestamp};
use parking_lot::Mutex;

use crate::random::Random;
use crate::root::ring::{Keys, Ring};
use crate::{Epoch, Plain, RootKeys, VaultError, WrapItem};

pub struct MemoryRootKeys {
    ring: Mutex<Ring>,
    random: Random,
    down: AtomicBool,
}

impl MemoryRootKeys {
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        let random = Random::new(entropy);
        let ring = Ring::new(Keys::first(&random, Timestamp(0)));
        MemoryRootKeys { ring: Mutex::new(ring), random, down: AtomicBool::new(false) }
    }

    /// While down, every call is an outage.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn up(&self) -> Result<parking_lot::MutexGuard<'_, Ring>, VaultError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(VaultError::outage("the key service", "it is set down"));
        }
        Ok(self.ring.lock())
    }
}

#[async_trait]
impl RootKeys for MemoryRootKeys {
    async fn epochs(&self) -> Result<Vec<Epoch>, VaultError> {
        Ok(self.up()?.epochs())
    }

    async fn begun(&self, epoch: Epoch) -> Result<Option<Timestamp>, VaultError> {
        Ok(self.up()?.begun(epoch).filter(|at| at.0 != 0))
    }

    async fn begin_epoch(&self, now: Timestamp) -> Result<Epoch, VaultError> {
        let mut ring = self.up()?;
        let keys = ring.keys().grown(&self.random, now);
        ring.replace(keys);
        Ok(ring.current())
    }

    async fn wrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Vec<u8>>, VaultError> {
        self.up()?.wrap(epoch, items, &self.random)
    }

    async fn unwrap(&self, epoch: Epoch, items: &[WrapItem<'_>]) -> Result<Vec<Result<Plain, VaultError>>, VaultError> {
        self.up()?.unwrap(epoch, items)
    }

    async fn destroy_epoch(&self, epoch: Epoch) -> Result<(), VaultError> {
        let mut ring = self.up()?;
        let keys = ring.keys().without(epoch)?;
        if let Some(keys) = keys {
            ring.replace(keys);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeededEntropy;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        crate::contract::root_keys(&MemoryRootKeys::new(Arc::new(SeededEntropy::new(1)))).await;
    }
}
