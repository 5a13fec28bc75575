//! Backups and rebuilds of a running node: begun, then asked after. One at a time; over the node's own socket only.
//!
//! Never here: how it is done (`ward` implements [`Maintenance`]), and never content: figures and names of parts.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use base::DomainName;
use policy::Action;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::break_glass::body_of;
use super::{AdminError, Answer, Local, released};
use crate::doors::{Doors, OperatorError};

pub fn router() -> Router<Arc<Doors>> {
    Router::new().route("/admin/maintenance", get(state)).route("/admin/maintenance", post(begin))
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Job {
    /// Data to one target, keys to another.
    Backup {
        target: String,
        #[serde(default)]
        keys_to: Option<String>,
        /// Backups of each to keep.
        keep: usize,
        keys_keep: usize,
    },
    /// Of one domain, or of all.
    RebuildIndex {
        #[serde(default)]
        domain: Option<DomainName>,
    },
    RebuildProducts {
        #[serde(default)]
        domain: Option<DomainName>,
    },
    /// Reads what the journals and snapshots refer to, and names what is missing.
    Inspect,
}

/// How the job that was begun last is going.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct JobState {
    /// Counts the jobs of this process: a later number is another job.
    pub number: u64,
    pub running: bool,
    pub stage: String,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub result: Option<Value>,
    pub error: Option<String>,
}

/// What the node does for its own upkeep. `ward` implements it.
pub trait Maintenance: Send + Sync {
    /// Begins a job and returns its number; refused while another one runs.
    fn begin(&self, job: Job) -> Result<u64, OperatorError>;
    fn state(&self) -> JobState;
}

async fn begin(State(doors): State<Arc<Doors>>, Local(call): Local, body: Bytes) -> Answer {
    let job: Job = body_of(&body, "a job: see /openapi.json")?;
    let permit = call.manage(&doors, Action::Manage, &gate::governance(), "maintenance").await?;
    let number = doors.maintenance.begin(job).map_err(|error| AdminError(StatusCode::CONFLICT, error.to_string()))?;
    released(&doors, &call, &permit, Action::Manage, "maintenance", &json!({ "number": number })).await
}

async fn state(State(doors): State<Arc<Doors>>, Local(call): Local) -> Answer {
    let permit = call.metadata(&doors, &gate::governance(), "source").await?;
    released(&doors, &call, &permit, Action::MetadataRead, "maintenance", &doors.maintenance.state()).await
}
