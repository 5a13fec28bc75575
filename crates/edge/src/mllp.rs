//! The MLLP door: one listener per HL7 v2 source, one message at a time per connection, answered in order.
//!
//! Frames come from `hl7v2::mllp`, meaning from `clinical::Hl7Receiver`. A framing error closes its own connection and
//! no other. The sender is bound to the listener, and to its client certificate where the source asks for one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base::{Clock, Entropy, Layer, Limits, Permit, TraceContext, Write};
use bytes::Bytes;
use clinical::{Door, Hl7Receiver};
use gate::{Ask, Gate, Origin};
use hl7v2::mllp::{Decoder, frame};
use net::{Connection, Drain, Listener};
use policy::Action;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::metrics::Metrics;

/// What a listener works with.
pub struct MllpDoor {
    pub gate: Gate,
    pub receiver: Arc<Hl7Receiver>,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
}

impl MllpDoor {
    pub async fn serve(self, listener: Listener, drain: Drain) {
        let door = Arc::new(self);
        let closing = drain.clone();
        listener
            .serve(drain, move |connection| {
                let (door, closing) = (door.clone(), closing.clone());
                async move {
                    door.metrics.mllp_connections.fetch_add(1, Ordering::Relaxed);
                    door.converse(connection, &closing).await;
                    door.metrics.mllp_connections.fetch_sub(1, Ordering::Relaxed);
                }
            })
            .await;
    }

    /// Asked anew whenever the last permit has run out: what a source may do can change while it is connected.
    async fn permit(&self, peer: IpAddr) -> Option<Permit<Write>> {
        let source = &self.receiver.source().name;
        let refused = |reason: String| {
            tracing::warn!(%source, %reason, "a source is not permitted to send");
            None
        };
        let caller = match self.gate.source(source) {
            Ok(caller) => caller,
            Err(error) => return refused(error.to_string()),
        };
        let origin = Origin::new("mllp", Some(peer), None);
        let ask = Ask::new(Action::Ingest, self.receiver.domain(), Layer::Bronze, &origin).kind(source.as_str());
        match self.gate.permit::<Write>(&caller, ask).await {
            Ok(permit) => Some(permit),
            Err(refusal) => refused(refusal.to_string()),
        }
    }

    async fn converse(&self, connection: Connection, drain: &Drain) {
        let peer = connection.peer;
        let (mut stream, _slot) = connection.into_parts();
        let Some(mut permit) = self.permit(peer.ip()).await else { return };
        let mut decoder = Decoder::new(self.limits.hl7_message_bytes_max);
        let mut buffer = vec![0; 64 << 10];
        let mut began: Option<Instant> = None;
        loop {
            loop {
                match decoder.next_frame() {
                    Ok(None) => break,
                    Ok(Some(message)) => {
                        if !permit.is_live(self.clock.now()) {
                            let Some(fresh) = self.permit(peer.ip()).await else { return };
                            permit = fresh;
                        }
                        if !self.answer(&permit, &mut stream, message).await {
                            return;
                        }
                    }
                    Err(error) => {
                        self.metrics.mllp_framing_errors.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(source = %self.receiver.source().name, %peer, %error, "closing a connection");
                        return;
                    }
                }
            }
            let wait = if decoder.is_inside() {
                let started = *began.get_or_insert_with(Instant::now);
                Duration::from_millis(self.limits.mllp_message_timeout_ms).saturating_sub(started.elapsed())
            } else {
                began = None;
                Duration::from_millis(self.limits.mllp_idle_timeout_ms)
            };
            let read = tokio::select! {
                read = tokio::time::timeout(wait, stream.read(&mut buffer)) => read,
                // Between messages a draining node closes at once; a message half in gets its time.
                () = drain.closing(), if !decoder.is_inside() => return,
            };
            match read {
                Ok(Ok(0)) | Ok(Err(_)) => return,
                Ok(Ok(n)) => decoder.push(&buffer[..n]),
                Err(_) => {
                    tracing::debug!(source = %self.receiver.source().name, %peer, "closing a silent connection");
                    return;
                }
            }
        }
    }

    /// False when the sender is gone.
    async fn answer(&self, permit: &Permit<Write>, stream: &mut net::Stream, message: Vec<u8>) -> bool {
        let start = Instant::now();
        let trace = TraceContext::new(&*self.entropy);
        let reply = self.receiver.receive(permit, Door::Mllp, trace, Bytes::from(message)).await;
        let (domain, source) = (self.receiver.domain(), &self.receiver.source().name);
        self.metrics.hl7(domain.as_str(), source.as_str(), reply.code.code(), start.elapsed());
        match reply.ack {
            Some(ack) => stream.write_all(&frame(&ack)).await.is_ok() && stream.flush().await.is_ok(),
            None => true,
        }
    }
}
