//! Policies: Cedar text, a typed schema, and the obligations a permit carries. A pure function of its arguments.
//!
//! - [`Engine::load`] takes files, checks them like a compiler and reports [`Diagnostic`]s.
//! - [`Engine::decide`] answers a [`Request`] with a [`Decision`]: allowed or not, by which policies, at which price.
//! - [`starter`] gives the policies that a new mesh begins with.
//!
//! Never here: tokens, permits, patients' sets, audit. They are `gate`'s.
//!
//! # How a decision is made
//!
//! 1. **Deny by default.** Without a `permit` that applies the answer is no.
//! 2. **A forbid wins.** A `forbid` without `@obligation` that applies closes the request, whatever permits it.
//! 3. **A forbid with `@obligation` forbids unless the obligation is carried out.** So it adds its obligations to every
//!    way in. Read by any other Cedar engine it forbids outright: losing the annotation fails closed.
//! 4. **Each permit that applies is a way in**, with its own obligations as the price. A request takes exactly one: the
//!    least restrictive by a fixed order ([`obligation::weight`], then the policy's id), since every way suffices alone
//!    and mixing two would promise what neither policy says.
//! 5. **Domains only tighten.** Files below `domains/<name>/` hold forbids only, and bind only that domain.
//! 6. **PHI needs a purpose**, built in: no file can drop it. The same holds for a policy that fails to evaluate: the
//!    request is refused.

mod engine;
pub mod facts;
mod load;
pub mod obligation;

pub use engine::{Decision, Engine, merge};
pub use facts::{
    Action, Agreement, ContextFacts, Labels, Network, PrincipalFacts, PrincipalKind, Request, ResourceFacts,
};
pub use load::Diagnostic;
pub use obligation::{Obligation, Obliged, RowRule};

/// The policies `ward init` writes: (path below the mesh's folder, text).
pub fn starter() -> &'static [(&'static str, &'static str)] {
    macro_rules! files {
        ($($name:literal),+ $(,)?) => {
            &[$((concat!("policies/", $name), include_str!(concat!("../starter/", $name)))),+]
        };
    }
    files![
        "guards.cedar",
        "care.cedar",
        "downtime.cedar",
        "emergency.cedar",
        "registration.cedar",
        "feeds.cedar",
        "routes.cedar",
        "engineering.cedar",
        "interface.cedar",
        "analytics.cedar",
        "oversight.cedar",
        "rights.cedar",
        "administration.cedar",
    ]
}

/// The Cedar schema that policies are checked against; `ward init` writes it beside them, for readers and editors, as
/// `policies/ward.cedarschema`. The built-in one is what counts.
pub fn schema_text() -> &'static str {
    load::SCHEMA
}
