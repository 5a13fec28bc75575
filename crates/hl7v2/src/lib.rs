//! HL7 v2 in ER7, versions 2.1 to 2.8.2: [`parse`] gives a [`Message`] whose [`Message::raw`] is the input byte for byte.
//!
//! Pure: no sockets, no clock, no meaning. MLLP bytes become frames in [`mllp`], files and batches become messages in
//! [`batch`], answers are written in [`ack`]. For people: [`dictionary`] has the names of fields, [`view`] shows and
//! compares. What the fields mean in FHIR stands in `clinical::v2`.

mod charset;
mod delimiters;
mod element;
mod error;
mod escape;
mod info;
mod message;
mod path;
mod structure;

pub mod ack;
pub mod batch;
pub mod dictionary;
pub mod edit;
pub mod mllp;
pub mod time;
pub mod view;

pub use ack::{AckCode, AckCondition, AckError, AckMode, Severity, ack, ack_mode, nack, response};
pub use charset::Charset;
pub use delimiters::Delimiters;
pub use element::{Element, Presence};
pub use error::{Malformed, code357};
pub use escape::{escape, unescape};
pub use info::MessageInfo;
pub use message::{Message, OwnedMessage, Segment, parse};
pub use path::{Path, PathError};
pub use structure::structure_of;
