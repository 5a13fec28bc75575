//! The MLLP door: one listener per HL7 v2 source, one message at a time per connection, answered in order.
//!
//! Frames come from `hl7v2::mllp`, meaning from `clinical::Hl7Receiver`. A framing error closes its own connection and
//! no other. The sender is bound to the listener, and to its client certificate where the source names senders.
//!
//! Answers that wait for refine leave in the order of their messages, while more is read from the same connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base::{Clock, Entropy, Layer, Limits, Permit, TraceContext, Write};
use bytes::Bytes;
use clinical::{Door, Hl7Receiver, Kind, Later, Reply};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use gate::{Ask, Gate, Origin};
use hl7v2::AckCode;
use hl7v2::mllp::{Decoder, frame};
use net::{Connection, Drain, Listener};
use policy::Action;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use parking_lot::Mutex;

use crate::metrics::Metrics;
use crate::query::{self, QueryDesk};

/// What a listener works with.
pub struct MllpDoor {
    pub gate: Gate,
    pub receiver: Arc<Hl7Receiver>,
    pub limits: Arc<Limits>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    pub pace: Pace,
    /// For a source that may ask.
    pub desk: Option<QueryDesk>,
}

/// How fast a source may send: each message has its moment, and waits for it. A sender that is too fast finds its
/// connection slow, and nothing is refused.
#[derive(Debug)]
pub struct Pace {
    between: Option<Duration>,
    next: Mutex<Instant>,
}

impl Pace {
    pub fn new(messages_per_second_max: Option<u32>) -> Pace {
        let between = messages_per_second_max.map(|n| Duration::from_secs(1) / n.max(1));
        Pace { between, next: Mutex::new(Instant::now()) }
    }

    async fn turn(&self) {
        let Some(between) = self.between else { return };
        let at = {
            let mut next = self.next.lock();
            // What was not used of the last second may come at once.
            let at = (*next).max(Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or(*next));
            *next = at + between;
            at
        };
        tokio::time::sleep_until(at.into()).await;
    }
}

/// The answers of one connection, in the order of its messages.
type Answers = FuturesOrdered<Later>;

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
        if !self.knows(&stream) {
            self.metrics.mllp_unknown_senders.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(source = %self.receiver.source().name, %peer, "a certificate of none of the source's senders");
            return;
        }
        let Some(mut permit) = self.permit(peer.ip()).await else { return };
        let mut decoder = Decoder::new(self.limits.hl7_message_bytes_max);
        let mut buffer = vec![0; 16 << 10];
        let mut began: Option<Instant> = None;
        let mut answers = Answers::new();
        loop {
            loop {
                match decoder.next_frame() {
                    Ok(None) => break,
                    Ok(Some(message)) => {
                        self.pace.turn().await;
                        if !permit.is_live(self.clock.now()) {
                            let Some(fresh) = self.permit(peer.ip()).await else { return };
                            permit = fresh;
                        }
                        if !self.answer(&permit, peer.ip(), &mut stream, &mut answers, message).await {
                            return;
                        }
                    }
                    Err(error) => {
                        finish(&mut stream, &mut answers).await;
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
                biased;
                Some(answer) = answers.next() => {
                    if !write(&mut stream, answer).await {
                        return;
                    }
                    continue;
                }
                // Between messages a draining node closes at once; a message half in gets its time, an answer too.
                () = drain.closing(), if !decoder.is_inside() && answers.is_empty() => return,
                read = tokio::time::timeout(wait, stream.read(&mut buffer)) => read,
            };
            match read {
                Ok(Ok(0)) => return finish(&mut stream, &mut answers).await,
                Ok(Err(_)) => return,
                Ok(Ok(n)) => decoder.push(&buffer[..n]),
                Err(_) => {
                    tracing::debug!(source = %self.receiver.source().name, %peer, "closing a silent connection");
                    return;
                }
            }
        }
    }

    /// Whether the certificate is one of those that may send as this source.
    fn knows(&self, stream: &net::Stream) -> bool {
        let senders = &self.receiver.source().senders;
        let shown = stream.peer_certificate();
        senders.is_empty() || shown.is_some_and(|certificate| senders.iter().any(|sender| sender.is(certificate)))
    }

    /// False when the sender is gone.
    async fn answer(
        &self,
        permit: &Permit<Write>,
        peer: IpAddr,
        stream: &mut net::Stream,
        answers: &mut Answers,
        message: Vec<u8>,
    ) -> bool {
        let mut start = Instant::now();
        let (domain, source) = (self.receiver.domain(), &self.receiver.source().name);
        let mut count = |reply: &Reply| {
            self.metrics.hl7(domain.as_str(), source.as_str(), reply.code.code(), start.elapsed());
            start = Instant::now();
        };
        let (trace, bytes) = (TraceContext::new(&*self.entropy), Bytes::from(message));
        let reply = match self.receiver.kind(&bytes) {
            Kind::Acknowledgement => return true,
            Kind::Query => {
                let (desk, clock) = (self.desk.as_ref(), &*self.clock);
                let told = query::respond(&self.receiver, desk, clock, &self.limits, peer, trace, &bytes).await;
                self.metrics.hl7(domain.as_str(), source.as_str(), "query", start.elapsed());
                return match told {
                    Some(told) if answers.is_empty() => write(stream, Some(told)).await,
                    Some(told) => self.wait(stream, answers, Box::pin(std::future::ready(Some(told)))).await,
                    None => true,
                };
            }
            Kind::Batch => self.receiver.receive_batch(permit, Door::Mllp, trace, bytes, count).await,
            Kind::Message => {
                let reply = self.receiver.receive(permit, Door::Mllp, trace, bytes).await;
                count(&reply);
                reply
            }
        };
        let Some(later) = reply.later else {
            // An answer never overtakes the one to an earlier message; an accept answer has nothing to wait for.
            let is_accept = matches!(reply.code, AckCode::CA | AckCode::CE | AckCode::CR);
            return match reply.ack {
                Some(ack) if answers.is_empty() || is_accept => write(stream, Some(ack)).await,
                Some(ack) => self.wait(stream, answers, Box::pin(std::future::ready(Some(ack)))).await,
                None => true,
            };
        };
        write(stream, reply.ack).await && self.wait(stream, answers, later).await
    }

    /// Puts an answer at the end of the queue. A full queue is worked off first: nothing more is read until then.
    async fn wait(&self, stream: &mut net::Stream, answers: &mut Answers, later: Later) -> bool {
        while answers.len() >= self.limits.mllp_unanswered_max.max(1) {
            if let Some(answer) = answers.next().await
                && !write(stream, answer).await
            {
                return false;
            }
        }
        answers.push_back(later);
        true
    }
}

/// What came whole is answered still, though nothing more will be read.
async fn finish(stream: &mut net::Stream, answers: &mut Answers) {
    while let Some(answer) = answers.next().await {
        if !write(stream, answer).await {
            return;
        }
    }
}

async fn write(stream: &mut net::Stream, answer: Option<Vec<u8>>) -> bool {
    match answer {
        Some(answer) => stream.write_all(&frame(&answer)).await.is_ok() && stream.flush().await.is_ok(),
        None => true,
    }
}
