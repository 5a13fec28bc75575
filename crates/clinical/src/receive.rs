//! An HL7 v2 message at the door: checked as far as an acknowledgement needs, made durable, answered.
//!
//! What the message means is refine's business. Refused here is only what must not get in at all: bytes that are no
//! message, a test message on a production feed, a version nobody knows, a type that the source does not send.
//!
//! Two answers are possible (v2.8.2 §2.9). The accept answer says that the message is durable. The application answer
//! says what refine made of it: it comes later, and is told what was set aside.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Limits, Permit, TraceContext, Write};
use bytes::Bytes;
use futures::future::BoxFuture;
use hl7v2::batch::{self, Batch};
use hl7v2::{AckCode, AckError, AckMode, Malformed, Message, Severity, code357};
use store::SetAside;

use crate::envelope::{Content, Door};
use crate::intake::{Accepted, Input, Intake, IntakeError};
use crate::refine::WHOLE;
use crate::source::{AckOn, Source};

/// The receiver of one source.
#[derive(Clone)]
pub struct Hl7Receiver {
    intake: Arc<Intake>,
    source: Arc<Source>,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
}

/// What to send back.
pub struct Reply {
    /// The answer that is ready. `None` when the sender wants none, or when it waits for refine.
    pub ack: Option<Vec<u8>>,
    /// The answer that waits for refine, where one is wanted.
    pub later: Option<Later>,
    /// What the message came to at the journal: accepted or refused, whatever is said about it.
    pub code: AckCode,
    pub accepted: Option<Accepted>,
}

/// An answer under way; `None` when the outcome is one that the sender does not want to hear of.
pub type Later = BoxFuture<'static, Option<Vec<u8>>>;

/// What an input at the door turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    /// FHS or BHS: many messages in one.
    Batch,
    /// The sender confirms an application answer of ours: nothing to store, nothing to answer.
    Acknowledgement,
    /// A question: nothing to store, and an answer of data.
    Query,
}

impl Hl7Receiver {
    pub fn new(intake: Arc<Intake>, source: Arc<Source>, limits: Arc<Limits>, clock: Arc<dyn Clock>) -> Self {
        Hl7Receiver { intake, source, limits, clock }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn domain(&self) -> &base::DomainName {
        self.intake.journal().domain()
    }

    pub fn kind(&self, bytes: &[u8]) -> Kind {
        if matches!(bytes.get(..3), Some(b"FHS" | b"BHS")) {
            return Kind::Batch;
        }
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        match hl7v2::parse(&bytes[..end], &self.limits) {
            Ok(header) if matches!(header.info().code.as_str(), "ACK" | "MCF") => Kind::Acknowledgement,
            Ok(header) if matches!(header.info().code.as_str(), "QBP" | "QCN" | "QRY" | "QSB") => Kind::Query,
            _ => Kind::Message,
        }
    }

    /// The answers to the messages of a batch, in their order, as a batch (v2.8.2 §2.10.3). Each message is on its own:
    /// what is wrong with one stops no other. `seen` is told of each.
    pub async fn receive_batch(
        &self,
        permit: &Permit<Write>,
        door: Door,
        trace: TraceContext,
        bytes: Bytes,
        mut seen: impl FnMut(&Reply),
    ) -> Reply {
        let batch = match batch::split(&bytes, &self.limits) {
            Ok(batch) => batch,
            Err(fault) => return self.not_a_message(&bytes, &fault, &trace),
        };
        let mut answers = Vec::new();
        let mut code = AckCode::AA;
        for message in batch.messages() {
            let reply = self.receive(permit, door, trace, bytes.slice_ref(message)).await;
            if !reply.code.accepts() {
                code = AckCode::AE;
            }
            seen(&reply);
            answers.push((reply.ack, reply.later));
        }
        let waits = answers.iter().any(|(_, later)| later.is_some());
        let control_id = self.control_id(None, &trace);
        if !waits {
            let ready = answers.into_iter().map(|(ack, _)| ack).collect();
            return Reply { ack: self.batch_answer(&batch, &control_id, ready), later: None, code, accepted: None };
        }
        let this = self.clone();
        let bytes = bytes.clone();
        let later = async move {
            let mut ready = Vec::with_capacity(answers.len());
            for (ack, later) in answers {
                let later = match later {
                    Some(later) => later.await,
                    None => None,
                };
                // Both, where both are wanted: first that it is stored, then what became of it.
                ready.push(
                    Some([ack.unwrap_or_default(), later.unwrap_or_default()].concat()).filter(|a| !a.is_empty()),
                );
            }
            let batch = batch::split(&bytes, &this.limits).ok()?;
            this.batch_answer(&batch, &control_id, ready)
        };
        Reply { ack: None, later: Some(Box::pin(later)), code, accepted: None }
    }

    /// `None` when no message of the batch wants an answer.
    fn batch_answer(&self, batch: &Batch<'_>, control_id: &str, answers: Vec<Option<Vec<u8>>>) -> Option<Vec<u8>> {
        let is_wanted = answers.is_empty() || answers.iter().any(Option::is_some);
        let mut answers = answers.into_iter();
        is_wanted.then(|| batch::answer(batch, control_id, self.clock.now(), |_| answers.next().flatten()))
    }

    /// Never fails: every input has an answer. A positive one comes only after the message is durable (law 1).
    pub async fn receive(&self, permit: &Permit<Write>, door: Door, trace: TraceContext, bytes: Bytes) -> Reply {
        let received = {
            let message = match hl7v2::parse(&bytes, &self.limits) {
                Ok(message) => message,
                Err(fault) => return self.not_a_message(&bytes, &fault, &trace),
            };
            let mode = hl7v2::ack_mode(&message);
            match self.check(&message) {
                Ok(()) => Received { control_id: message.control_id(), mode },
                Err(fault) => return self.answer(&bytes, mode, Verdict::Reject, &[fault], None, &trace),
            }
        };
        let input = Input {
            source: self.source.name.clone(),
            door,
            content: Content::Hl7v2,
            control_key: (!received.control_id.is_empty()).then_some(received.control_id),
            trace,
            body: bytes.clone(),
            shadow: self.source.shadow,
            one_content: false,
        };
        match self.intake.accept(permit, input).await {
            Ok(accepted) => self.accepted(bytes, received.mode, accepted, &trace),
            Err(error) => {
                let text = match &error {
                    IntakeError::Busy { retry_after_ms } => {
                        format!("the node is busy and has stored nothing: send again after {retry_after_ms} ms")
                    }
                    other => {
                        tracing::error!(source = %self.source.name, error = %other, "a message could not be stored");
                        "the node could not store the message: send again".to_owned()
                    }
                };
                let fault = AckError { code357: code357::INTERNAL, text, ..AckError::default() };
                self.answer(&bytes, received.mode, Verdict::Reject, &[fault], None, &trace)
            }
        }
    }

    /// MSH-11 and MSH-9 against what the source declares, MSH-12 against what is spoken.
    fn check(&self, message: &Message<'_>) -> Result<(), AckError> {
        self.check_header(message)?;
        let at = |field, code357, text: String| {
            Err(AckError { segment: "MSH".into(), seq: 1, field, code357, text, ..AckError::default() })
        };
        let info = message.info();
        if info.code.is_empty() {
            return at(9, code357::REQUIRED_FIELD_MISSING, "the message does not say its type".to_owned());
        }
        self.check_type(&info).map_or(Ok(()), |(code, text)| at(9, code, text.to_owned()))
    }

    /// As [`Hl7Receiver::receive`] checks every message, for questions, which are not received.
    pub fn check_header(&self, message: &Message<'_>) -> Result<(), AckError> {
        let at = |field, code357, text: String| {
            Err(AckError { segment: "MSH".into(), seq: 1, field, code357, text, ..AckError::default() })
        };
        let expected = self.source.mode.code();
        if message.processing_id() != expected {
            return at(
                11,
                code357::UNSUPPORTED_PROCESSING_ID,
                format!("this source takes messages with processing id {expected} only: nothing was stored"),
            );
        }
        let version = message.version();
        if !version.is_empty() && !version.starts_with("2.") {
            return at(12, code357::UNSUPPORTED_VERSION, "versions 2.1 to 2.8.2 are spoken here".to_owned());
        }
        Ok(())
    }

    fn check_type(&self, info: &hl7v2::MessageInfo) -> Option<(u16, &'static str)> {
        let is_word =
            |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !is_word(&info.code) {
            return Some((code357::UNSUPPORTED_MESSAGE_TYPE, "MSH-9.1 is no message type of HL7 table 0076"));
        }
        if !info.trigger.is_empty() && !is_word(&info.trigger) {
            return Some((code357::UNSUPPORTED_EVENT, "MSH-9.2 is no trigger event of HL7 table 0003"));
        }
        let accepts = &self.source.accepts;
        if accepts.is_empty() {
            return None;
        }
        let whole = |word: &str| word.split('^').next() == Some(info.code.as_str());
        if !accepts.iter().any(|word| whole(word)) {
            return Some((code357::UNSUPPORTED_MESSAGE_TYPE, "this source does not send messages of this type"));
        }
        let is_taken = |word: &String| whole(word) && word.split('^').nth(1).is_none_or(|event| event == info.trigger);
        (!accepts.iter().any(is_taken))
            .then_some((code357::UNSUPPORTED_EVENT, "this source does not send this event of the type"))
    }

    /// The header alone can often be read still: then the sender learns which message it was, in its own mode.
    fn not_a_message(&self, bytes: &[u8], fault: &Malformed, trace: &TraceContext) -> Reply {
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        if let Ok(header) = hl7v2::parse(&bytes[..end], &self.limits) {
            let mode = hl7v2::ack_mode(&header);
            return self.answer(&bytes[..end], mode, Verdict::Reject, &[AckError::from(fault)], None, trace);
        }
        let ack = hl7v2::nack(fault, AckCode::AR, &self.control_id(None, trace), self.clock.now());
        Reply { ack: Some(ack), later: None, code: AckCode::AR, accepted: None }
    }

    /// Durable. In original mode there is one answer, now or when refine has been there, as the source declares; in
    /// enhanced mode up to two.
    fn accepted(&self, bytes: Bytes, mode: AckMode, accepted: Accepted, trace: &TraceContext) -> Reply {
        let (now, application) = match mode {
            AckMode::Original => (self.source.ack_on == AckOn::Journal, None),
            AckMode::Enhanced { application, .. } => (true, Some(application)),
        };
        let mut reply = if now {
            self.answer(&bytes, mode, Verdict::Accept, &[], Some(accepted), trace)
        } else {
            Reply { ack: None, later: None, code: AckCode::AA, accepted: Some(accepted) }
        };
        let waits = match application {
            Some(condition) => condition.wants(true) || condition.wants(false),
            None => !now,
        };
        if waits {
            let this = self.clone();
            reply.later = Some(Box::pin(async move { this.applied(&bytes, application, accepted).await }));
        }
        reply
    }

    /// The application answer: what refine made of the message. `AE` when nothing of it could be used, or when that is
    /// not known in time; `AA` otherwise, with a warning for each part that was set aside.
    async fn applied(
        self,
        bytes: &[u8],
        condition: Option<hl7v2::AckCondition>,
        accepted: Accepted,
    ) -> Option<Vec<u8>> {
        let (code, errors) = match self.outcome(accepted.index).await {
            Ok(asides) if asides.iter().any(|aside| aside.unit == WHOLE) => {
                (AckCode::AE, faults(&asides, Severity::Error))
            }
            Ok(asides) => (AckCode::AA, faults(&asides, Severity::Warning)),
            Err(text) => (AckCode::AE, vec![AckError { code357: code357::INTERNAL, text, ..AckError::default() }]),
        };
        if !condition.is_none_or(|condition| condition.wants(code.accepts())) {
            return None;
        }
        // Another control id than the accept answer's: it is a message of its own.
        let control_id =
            if condition.is_some() { format!("A{}", accepted.index) } else { format!("W{}", accepted.index) };
        let message = hl7v2::parse(bytes, &self.limits).ok()?;
        Some(hl7v2::ack(&message, code, &errors, &control_id, self.clock.now()))
    }

    /// What was set aside of the entry, once refine has been there.
    async fn outcome(&self, index: u64) -> Result<Vec<SetAside>, String> {
        let (silver, domain) = (self.intake.silver(), self.domain());
        let mut applied = silver.applied(domain);
        let reached = async { applied.wait_for(|upto| *upto > index).await.is_ok() };
        let timeout = Duration::from_millis(self.limits.hl7_applied_timeout_ms);
        if !tokio::time::timeout(timeout, reached).await.unwrap_or(false) {
            return Err("the message is stored and not applied yet: send it again to ask what became of it".to_owned());
        }
        let asides = silver.set_aside_of(domain, index).await.map_err(|error| {
            tracing::error!(source = %self.source.name, %error, "an application answer could not be made");
            "the message is stored; what became of it cannot be told now: send it again to ask".to_owned()
        })?;
        Ok(asides.into_iter().filter(|aside| !aside.resolved).map(|aside| aside.unit).collect())
    }

    /// MSH-10 of the answer: the journal index where there is one, so that a resend gets the first answer's.
    fn control_id(&self, accepted: Option<Accepted>, trace: &TraceContext) -> String {
        match accepted {
            Some(accepted) => format!("W{}", accepted.index),
            None => format!("R{}", &trace.trace_id_hex()[..16]),
        }
    }

    fn answer(
        &self,
        bytes: &[u8],
        mode: AckMode,
        verdict: Verdict,
        errors: &[AckError],
        accepted: Option<Accepted>,
        trace: &TraceContext,
    ) -> Reply {
        let accepts = verdict == Verdict::Accept;
        let code = match (mode, verdict) {
            (AckMode::Original, Verdict::Accept) => AckCode::AA,
            (AckMode::Original, Verdict::Reject) => AckCode::AR,
            (AckMode::Enhanced { .. }, Verdict::Accept) => AckCode::CA,
            (AckMode::Enhanced { .. }, Verdict::Reject) => AckCode::CR,
        };
        let wanted = match mode {
            AckMode::Original => true,
            // A refusal is told to whoever wants to hear of errors at all: no application answer will follow.
            AckMode::Enhanced { accept, application } => {
                accept.wants(accepts) || (!accepts && application.wants(false))
            }
        };
        let ack = wanted.then(|| match hl7v2::parse(bytes, &self.limits) {
            Ok(message) => hl7v2::ack(&message, code, errors, &self.control_id(accepted, trace), self.clock.now()),
            Err(fault) => hl7v2::nack(&fault, code, &self.control_id(accepted, trace), self.clock.now()),
        });
        Reply { ack, later: None, code, accepted }
    }
}

/// ERR segments in an answer: a sender learns what to look at, not everything.
const FAULTS_MAX: usize = 20;

fn faults(asides: &[SetAside], severity: Severity) -> Vec<AckError> {
    let fault = |aside: &SetAside| {
        let code357 = match aside.code.as_str() {
            "malformed" => code357::SEGMENT_SEQUENCE,
            "number-invalid" | "invalid" => code357::DATA_TYPE,
            "message-type-unmapped" => code357::UNSUPPORTED_MESSAGE_TYPE,
            "ambiguous" | "parent-missing" | "patient" => code357::UNKNOWN_KEY,
            _ => code357::INTERNAL,
        };
        let error = AckError { code357, severity, text: aside.reason.clone(), ..AckError::default() };
        match Place::of(&aside.place) {
            Some(Place { segment, seq, field, repetition }) => AckError { segment, seq, field, repetition, ..error },
            None => error,
        }
    };
    asides.iter().take(FAULTS_MAX).map(fault).collect()
}

/// `OBX[2]-5(1)`, or a segment alone, as ERR-2 wants it.
struct Place {
    segment: String,
    seq: u32,
    field: u16,
    repetition: u16,
}

impl Place {
    fn of(text: &str) -> Option<Place> {
        let whole = if text.contains('-') { text.to_owned() } else { format!("{text}-0") };
        let path: hl7v2::Path = whole.parse().ok()?;
        let repetition = path.repetition.unwrap_or(0);
        Some(Place { segment: path.segment, seq: path.occurrence, field: path.field, repetition })
    }
}

struct Received {
    control_id: String,
    mode: AckMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Reject,
}
