//! Routes: messages of a domain's journal sent on to others, in order, at least once, each on record before it leaves.
//!
//! The journal is the queue: a route keeps a position in it and nothing else, so an outage of the receiver costs no
//! memory and no disk. It reads what refine has applied, so that whom a message is about is known; sends one message at
//! a time; and moves on when the receiver has taken it. What the receiver refuses becomes a dead letter, which a person
//! sends again.
//!
//! Never here: which sources a domain has, agreements and addresses (see `ward::routes`), what a message means.

mod condition;
pub mod deid;
mod feed;
mod route;
mod send;
mod work;

pub use condition::Condition;
pub use feed::{Feed, Make};
pub use route::{Change, OnRefused, Route, Scheme, Target, is_message_type};
pub use send::{Destination, SendError};
pub use work::{Parts, Status, WorkError, Worker, asking_for_an_answer};
