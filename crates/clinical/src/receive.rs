//! An HL7 v2 message at the door: checked as far as an acknowledgement needs, made durable, answered.
//!
//! What the message means is refine's business. Refused here is only what must not get in at all: bytes that are no
//! message, a test message on a production feed, a version nobody knows.

use std::sync::Arc;

use base::{Clock, Limits, Permit, TraceContext, Write};
use bytes::Bytes;
use hl7v2::{AckCode, AckError, AckMode, Malformed, Message, code357};

use crate::envelope::{Content, Door};
use crate::intake::{Accepted, Input, Intake, IntakeError};
use crate::source::Source;

/// The receiver of one source.
pub struct Hl7Receiver {
    intake: Arc<Intake>,
    source: Arc<Source>,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
}

/// What to send back.
#[derive(Debug)]
pub struct Reply {
    /// `None` when the sender wants no answer (MSH-15 and MSH-16 `NE`).
    pub ack: Option<Vec<u8>>,
    pub code: AckCode,
    pub accepted: Option<Accepted>,
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
        };
        match self.intake.accept(permit, input).await {
            Ok(accepted) => self.answer(&bytes, received.mode, Verdict::Accept, &[], Some(accepted), &trace),
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

    /// MSH-11 against what the source declares, MSH-12 against what is spoken.
    fn check(&self, message: &Message<'_>) -> Result<(), AckError> {
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
        if message.info().code.is_empty() {
            return at(9, code357::REQUIRED_FIELD_MISSING, "the message does not say its type".to_owned());
        }
        Ok(())
    }

    /// The header alone can often be read still: then the sender learns which message it was, in its own mode.
    fn not_a_message(&self, bytes: &[u8], fault: &Malformed, trace: &TraceContext) -> Reply {
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        if let Ok(header) = hl7v2::parse(&bytes[..end], &self.limits) {
            let mode = hl7v2::ack_mode(&header);
            return self.answer(&bytes[..end], mode, Verdict::Reject, &[AckError::from(fault)], None, trace);
        }
        let ack = hl7v2::nack(fault, AckCode::AR, &self.control_id(None, trace), self.clock.now());
        Reply { ack: Some(ack), code: AckCode::AR, accepted: None }
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
            AckMode::Enhanced { accept, .. } => accept.wants(accepts),
        };
        let ack = wanted.then(|| match hl7v2::parse(bytes, &self.limits) {
            Ok(message) => hl7v2::ack(&message, code, errors, &self.control_id(accepted, trace), self.clock.now()),
            Err(fault) => hl7v2::nack(&fault, code, &self.control_id(accepted, trace), self.clock.now()),
        });
        Reply { ack, code, accepted }
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
