//! Slots: an object's key, wrapped by its scope's key.

use crate::aead::WRAPPED_BYTES;
use crate::{ObjectId, ScopeId};

/// A wrapped object key. Small, mutable, kept apart from the data; noise without its scope key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    pub object: ObjectId,
    pub scope: ScopeId,
    /// nonce (12) || wrapped key (32) || tag (16).
    pub wrapped: [u8; WRAPPED_BYTES],
}

impl Slot {
    /// Length of [`Slot::to_bytes`].
    pub const BYTES: usize = 16 + 16 + WRAPPED_BYTES;

    /// The fixed layout that travels in a frame of the log: object, scope, wrapped key.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..16].copy_from_slice(&self.object.0);
        out[16..32].copy_from_slice(&self.scope.0);
        out[32..].copy_from_slice(&self.wrapped);
        out
    }

    /// `None` for another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let mut slot = Slot { object: ObjectId([0; 16]), scope: ScopeId([0; 16]), wrapped: [0; WRAPPED_BYTES] };
        slot.object.0.copy_from_slice(&bytes[..16]);
        slot.scope.0.copy_from_slice(&bytes[16..32]);
        slot.wrapped.copy_from_slice(&bytes[32..]);
        Some(slot)
    }

    /// What is bound into the wrap: the object and the scope key that wraps it.
    pub(crate) fn aad(object: ObjectId, scope: ScopeId) -> [u8; 33] {
        let mut aad = [0; 33];
        aad[0] = 1; // version of this layout
        aad[1..17].copy_from_slice(&object.0);
        aad[17..].copy_from_slice(&scope.0);
        aad
    }
}
