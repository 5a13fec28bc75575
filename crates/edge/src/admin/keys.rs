//! Keys over the node's own socket: how they stand, the turn of the epoch, rotation. Its answers name epochs and scopes
//! and never hold a key. What is done is done by the node (`ward::node::keys`), which puts a fact into the control log.

use super::*;
use crate::doors::OperatorError;

/// The node's keys, as their operator sees them. `ward` implements it. Answers are JSON objects without secrets.
#[async_trait::async_trait]
pub trait KeyDesk: Send + Sync {
    /// Living epochs and when they began, when the next turn is due, what the turn under way has done, damaged scopes.
    async fn status(&self) -> Result<Value, OperatorError>;
    /// Turns the epoch now. When this returns the old epoch keys are destroyed, but those it names as kept.
    async fn turn(&self) -> Result<Value, OperatorError>;
    async fn rotate(&self, what: Rotation) -> Result<Value, OperatorError>;
    /// Destroys a damaged scope, so that the old epoch kept for it can go.
    async fn give_up(&self, scope: &str) -> Result<Value, OperatorError>;
}

/// What is rotated.
#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rotation {
    /// A fresh machine key, or the new passphrase.
    Root {
        #[serde(default)]
        passphrase: Option<String>,
    },
    TokenSigner,
}

pub fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/keys", get(status))
        .route("/admin/keys/turn", post(turn))
        .route("/admin/keys/rotate", post(rotate))
        .route("/admin/keys/scopes/{scope}/give-up", post(give_up))
}

impl From<OperatorError> for AdminError {
    fn from(error: OperatorError) -> Self {
        AdminError(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// Who asks over the socket and may manage; what was done is on record with the answer.
async fn done(
    doors: &Doors,
    call: &Call,
    what: &str,
    work: impl Future<Output = Result<Value, OperatorError>>,
) -> Answer {
    let permit = call.manage(doors, Action::Manage, &gate::governance(), "keys").await?;
    released(doors, call, &permit, Action::Manage, what, &work.await?).await
}

async fn status(State(doors): State<Arc<Doors>>, Local(call): Local) -> Answer {
    done(&doors, &call, "keys", doors.keys.status()).await
}

async fn turn(State(doors): State<Arc<Doors>>, Local(call): Local) -> Answer {
    done(&doors, &call, "turn of the key epoch", doors.keys.turn()).await
}

async fn rotate(State(doors): State<Arc<Doors>>, Local(call): Local, body: Bytes) -> Answer {
    let rotation: Rotation = break_glass::body_of(&body, r#"{"what": "root" or "token-signer"}"#)?;
    done(&doors, &call, "rotation of a key", doors.keys.rotate(rotation)).await
}

async fn give_up(State(doors): State<Arc<Doors>>, Path(scope): Path<String>, Local(call): Local) -> Answer {
    done(&doors, &call, "a damaged scope given up", doors.keys.give_up(&scope)).await
}
