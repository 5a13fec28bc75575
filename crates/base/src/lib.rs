//! The words every crate shares: identifiers, [`Phi`], [`Permit`], clock, limits, purposes, classes.
//!
//! Pure: no IO here but reading the system clock and the system's randomness, both behind traits.
//! Formats live in `hl7v2` and `fhir`, decisions in `policy`, their use in `gate`.

pub mod class;
pub mod clock;
pub mod entropy;
pub mod hex;
pub mod id;
pub mod limits;
pub mod permit;
pub mod phi;
pub mod purpose;
pub mod time;
pub mod trace;
pub mod zip;

pub use class::{DataClass, Sensitivity};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use id::{DomainName, InvalidId, LogName, LogicalId, Ordinal, Position, PrincipalId, SourceName};
pub use limits::Limits;
pub use permit::{
    Grant, Layer, Manage, Mask, MaskMethod, NotCovered, PatientSet, Permit, PermitMint, Read, Target, Write,
};
pub use phi::Phi;
pub use purpose::{Purpose, Role};
pub use trace::TraceContext;
