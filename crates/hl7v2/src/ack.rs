//! Acknowledgements (v2.8.2 §2.9, §2.14.8, §2.14.5): MSH, MSA and ERR in the sender's own delimiters, version and
//! character set. Pure: control id and time are arguments. Never repeats a value of the message but MSH fields.

use base::Timestamp;

use crate::charset::is_known;
use crate::delimiters::Delimiters;
use crate::error::{Malformed, code357};
use crate::escape::escape;
use crate::message::Message;
use crate::time::format_utc;

/// HL7 table 0008.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckCode {
    /// Original mode: accepted; enhanced mode: application accept.
    AA,
    /// Application error.
    AE,
    /// Application reject.
    AR,
    /// Enhanced mode: commit accept.
    CA,
    /// Commit error.
    CE,
    /// Commit reject.
    CR,
}

impl AckCode {
    pub fn code(self) -> &'static str {
        match self {
            AckCode::AA => "AA",
            AckCode::AE => "AE",
            AckCode::AR => "AR",
            AckCode::CA => "CA",
            AckCode::CE => "CE",
            AckCode::CR => "CR",
        }
    }

    pub fn accepts(self) -> bool {
        matches!(self, AckCode::AA | AckCode::CA)
    }
}

/// HL7 table 0155, when an acknowledgement is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckCondition {
    Always,
    Never,
    Error,
    Success,
}

impl AckCondition {
    pub fn wants(self, accepted: bool) -> bool {
        match self {
            AckCondition::Always => true,
            AckCondition::Never => false,
            AckCondition::Error => !accepted,
            AckCondition::Success => accepted,
        }
    }
}

/// Original mode: MSH-15 and MSH-16 are both empty, one answer. Enhanced mode: an accept answer by MSH-15 and an
/// application answer by MSH-16 (v2.8.2 §2.9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckMode {
    Original,
    Enhanced { accept: AckCondition, application: AckCondition },
}

/// Which answers the sender asks for. An unknown word counts as AL: better one answer too many than a sender that waits.
pub fn ack_mode(message: &Message<'_>) -> AckMode {
    let (accept, application) = (message.get("MSH-15.1"), message.get("MSH-16.1"));
    if accept.is_none() && application.is_none() {
        return AckMode::Original;
    }
    let condition = |text: Option<&str>| match text.map(str::trim) {
        None | Some("NE") => AckCondition::Never,
        Some("ER") => AckCondition::Error,
        Some("SU") => AckCondition::Success,
        Some(_) => AckCondition::Always,
    };
    AckMode::Enhanced { accept: condition(accept.as_deref()), application: condition(application.as_deref()) }
}

/// ERR-4, HL7 table 0516.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Severity {
    #[default]
    Error,
    Warning,
    Information,
}

impl Severity {
    pub fn code(self) -> &'static str {
        match self {
            Severity::Error => "E",
            Severity::Warning => "W",
            Severity::Information => "I",
        }
    }
}

/// One ERR segment. `text` must hold no value of the message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AckError {
    /// Segment id; empty when no place can be named.
    pub segment: String,
    /// Which of the segments with this id, from 1.
    pub seq: u32,
    /// Field, from 1; 0 is the segment.
    pub field: u16,
    /// Repetition, from 1; 0 when it is not told.
    pub repetition: u16,
    /// Component, from 1; 0 when it is not told.
    pub component: u16,
    /// HL7 table 0357, see [`code357`].
    pub code357: u16,
    pub severity: Severity,
    /// What is wrong and what to do.
    pub text: String,
}

impl From<&Malformed> for AckError {
    fn from(fault: &Malformed) -> Self {
        AckError {
            segment: fault.segment.clone(),
            seq: fault.occurrence,
            field: fault.field,
            repetition: 0,
            component: 0,
            code357: fault.code357,
            severity: Severity::Error,
            text: fault.reason.to_owned(),
        }
    }
}

/// The answer to a message. `control_id` is the fresh MSH-10 of the answer.
pub fn ack(message: &Message<'_>, code: AckCode, errors: &[AckError], control_id: &str, now: Timestamp) -> Vec<u8> {
    let header = message.segment("MSH");
    let raw = |n: usize| header.map(|h| h.field(n).raw()).unwrap_or_default();
    let info = message.info();
    let answer = Answer {
        kind: None,
        delimiters: *message.delimiters(),
        sender: [raw(5), raw(6)],
        receiver: [raw(3), raw(4)],
        trigger: &info.trigger,
        processing_id: raw(11),
        version: raw(12),
        version_id: &info.version,
        // One that cannot be read is not said again: the answer must be readable.
        charset: Some(raw(18)).filter(|names| is_known(names, message.delimiters().repetition)).unwrap_or_default(),
        answers_to: raw(10),
    };
    message.charset().encode(&answer.write(code, errors, control_id, now))
}

/// How an answer of another type than ACK begins: MSH, MSA and ERR. In the recommended delimiters and in UTF-8, whatever
/// the question came in; what follows is written the same way.
pub fn response(
    message: &Message<'_>,
    kind: [&str; 3],
    code: AckCode,
    errors: &[AckError],
    control_id: &str,
    now: Timestamp,
) -> String {
    let delimiters = Delimiters::default();
    let header = message.segment("MSH");
    let is_same = *message.delimiters() == delimiters;
    let field = |n: usize| {
        let Some(field) = header.map(|header| header.field(n)) else { return String::new() };
        if is_same { field.raw().to_owned() } else { escape(&field.text(), &delimiters).into_owned() }
    };
    let info = message.info();
    let [three, four, five, six] = [3, 4, 5, 6].map(field);
    let (ten, eleven, twelve) = (field(10), field(11), field(12));
    let answer = Answer {
        kind: Some(kind),
        delimiters,
        sender: [&five, &six],
        receiver: [&three, &four],
        trigger: &info.trigger,
        processing_id: &eleven,
        version: &twelve,
        version_id: &info.version,
        charset: "UNICODE UTF-8",
        answers_to: &ten,
    };
    answer.write(code, errors, control_id, now)
}

/// The answer to bytes that are no message: what can be read of a header is used, the rest is left empty.
pub fn nack(fault: &Malformed, code: AckCode, control_id: &str, now: Timestamp) -> Vec<u8> {
    let answer = Answer {
        kind: None,
        delimiters: Delimiters::default(),
        sender: ["", ""],
        receiver: ["", ""],
        trigger: "",
        processing_id: "P",
        version: "2.5.1",
        version_id: "2.5.1",
        charset: "",
        answers_to: "",
    };
    answer.write(code, &[AckError::from(fault)], control_id, now).into_bytes()
}

/// Fields of the request as raw text in its own delimiters.
struct Answer<'m> {
    /// Type, event and structure, where the answer is no ACK.
    kind: Option<[&'m str; 3]>,
    delimiters: Delimiters,
    sender: [&'m str; 2],
    receiver: [&'m str; 2],
    trigger: &'m str,
    processing_id: &'m str,
    version: &'m str,
    version_id: &'m str,
    charset: &'m str,
    answers_to: &'m str,
}

impl Answer<'_> {
    fn write(&self, code: AckCode, errors: &[AckError], control_id: &str, now: Timestamp) -> String {
        let mut out = String::with_capacity(256 + errors.len() * 128);
        self.segment(&mut out, &self.header(control_id, now));
        // MSA-3 is withdrawn as of v2.7; before v2.5 there is no other place for the text.
        let text = match errors.first() {
            Some(error) if self.before("2.5") => self.safe(&error.text),
            _ => String::new(),
        };
        self.segment(&mut out, &["MSA".into(), code.code().into(), self.answers_to.into(), text]);
        for error in errors {
            let fields = if self.before("2.5") { self.error_location(error) } else { self.error(error) };
            self.segment(&mut out, &fields);
        }
        out
    }

    fn header(&self, control_id: &str, now: Timestamp) -> Vec<String> {
        let structure = if self.before("2.3.1") { "" } else { "ACK" };
        let kind = if let Some(kind) = self.kind {
            self.components(&kind)
        } else if self.before("2.2") {
            "ACK".into()
        } else {
            self.components(&["ACK", &self.safe(self.trigger), structure])
        };
        // Time with offset and fraction is known to every version; v2.1 and v2.2 read the first fourteen digits.
        let time = format_utc(now);
        let time = if self.before("2.3") { time[..14].to_owned() } else { time };
        let mut fields = vec![
            // MSH-1 is the separator that joins these two.
            "MSH".to_owned(),
            self.delimiters.encoding_characters(),
            self.sender[0].into(),
            self.sender[1].into(),
            self.receiver[0].into(),
            self.receiver[1].into(),
            time,
            String::new(),
            kind,
            self.safe(control_id),
            self.processing_id.into(),
            self.version.into(),
        ];
        if !self.charset.is_empty() {
            fields.extend(std::iter::repeat_n(String::new(), 5));
            fields.push(self.charset.into());
        }
        fields
    }

    /// ERR of v2.5 and later (§2.14.5): location, code of table 0357, severity, text.
    fn error(&self, error: &AckError) -> Vec<String> {
        let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
        let location = if error.segment.is_empty() {
            String::new()
        } else {
            self.components(&[
                &error.segment,
                &number(error.seq),
                &number(error.field.into()),
                &number(error.repetition.into()),
                &number(error.component.into()),
            ])
        };
        let code = self.components(&[&error.code357.to_string(), code357::text(error.code357), "HL70357"]);
        let text = self.safe(&error.text);
        vec![
            "ERR".into(),
            String::new(),
            location,
            code,
            error.severity.code().into(),
            String::new(),
            String::new(),
            text.clone(),
            text,
        ]
    }

    /// ERR-1 up to v2.4: segment, sequence, field, code.
    fn error_location(&self, error: &AckError) -> Vec<String> {
        let number = |n: u32| if n == 0 { String::new() } else { n.to_string() };
        let code = [&error.code357.to_string(), code357::text(error.code357), "HL70357"];
        let code = match self.delimiters.subcomponent {
            Some(d) => code.join(char::from(d).encode_utf8(&mut [0; 4])),
            None => error.code357.to_string(),
        };
        let place = self.components(&[&error.segment, &number(error.seq), &number(error.field.into()), &code]);
        vec!["ERR".into(), place]
    }

    /// Joined, without trailing empty ones. A message without components gets the first part alone.
    fn components(&self, parts: &[&str]) -> String {
        let used = parts.iter().rposition(|p| !p.is_empty()).map_or(0, |last| last + 1);
        match self.delimiters.component {
            Some(d) => parts[..used].join(char::from(d).encode_utf8(&mut [0; 4])),
            None => parts.first().copied().unwrap_or_default().to_owned(),
        }
    }

    fn segment(&self, out: &mut String, fields: &[String]) {
        let used = fields.iter().rposition(|f| !f.is_empty()).map_or(0, |last| last + 1);
        out.push_str(&fields[..used].join(char::from(self.delimiters.field).encode_utf8(&mut [0; 4])));
        out.push('\r');
    }

    fn safe(&self, text: &str) -> String {
        escape(text, &self.delimiters).into_owned()
    }

    /// Whether the request's version comes before `version`; an unknown one counts as new.
    fn before(&self, version: &str) -> bool {
        let place = |v: &str| crate::info::VERSIONS.iter().position(|known| *known == v);
        place(self.version_id).is_some_and(|own| Some(own) < place(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Limits;
    use expect_test::{Expect, expect};

    const NOW: Timestamp = Timestamp(1_795_570_643_123);

    fn answer(message: &str, code: AckCode, errors: &[AckError]) -> String {
        let message = crate::parse(message.as_bytes(), &Limits::default()).unwrap();
        String::from_utf8(ack(&message, code, errors, "W1", NOW)).unwrap().replace('\r', "\n")
    }

    fn check(message: &str, code: AckCode, errors: &[AckError], expected: Expect) {
        expected.assert_eq(&answer(message, code, errors));
    }

    fn an_error() -> AckError {
        AckError {
            segment: "OBX".into(),
            seq: 2,
            field: 5,
            repetition: 1,
            component: 0,
            code357: code357::DATA_TYPE,
            severity: Severity::Error,
            text: "not a number: send digits | a dot".into(),
        }
    }

    #[test]
    fn sender_and_receiver_change_places_and_version_stays() {
        check(
            "MSH|^~\\&|APP^1.2^ISO|FAC|WARD|HOSP|20200101||ADT^A01^ADT_A01|C1|P^T|2.5.1^USA||||||UNICODE UTF-8\r",
            AckCode::AA,
            &[],
            expect![[r#"
                MSH|^~\&|WARD|HOSP|APP^1.2^ISO|FAC|20261125013723.123+0000||ACK^A01^ACK|W1|P^T|2.5.1^USA||||||UNICODE UTF-8
                MSA|AA|C1
            "#]],
        );
    }

    #[test]
    fn errors_name_the_place_in_the_shape_of_the_version() {
        check(
            "MSH|^~\\&|A|B|C|D|20200101||ORU^R01^ORU_R01|C1|P|2.5\r",
            AckCode::AE,
            &[an_error()],
            expect![[r#"
                MSH|^~\&|C|D|A|B|20261125013723.123+0000||ACK^R01^ACK|W1|P|2.5
                MSA|AE|C1
                ERR||OBX^2^5^1|102^Data type error^HL70357|E|||not a number: send digits \F\ a dot|not a number: send digits \F\ a dot
            "#]],
        );
        check(
            "MSH|^~\\&|A|B|C|D|20200101||ORU^R01|C1|P|2.3\r",
            AckCode::AE,
            &[an_error()],
            expect![[r#"
                MSH|^~\&|C|D|A|B|20261125013723.123+0000||ACK^R01|W1|P|2.3
                MSA|AE|C1|not a number: send digits \F\ a dot
                ERR|OBX^2^5^102&Data type error&HL70357
            "#]],
        );
    }

    #[test]
    fn odd_delimiters_are_kept() {
        check(
            "MSH$%*!@$A$B$C$D$20200101$$ADT%A01$C!F!1$P$2.8\r",
            AckCode::CR,
            &[an_error()],
            expect![[r#"
                MSH$%*!@$C$D$A$B$20261125013723.123+0000$$ACK%A01%ACK$W1$P$2.8
                MSA$CR$C!F!1
                ERR$$OBX%2%5%1$102%Data type error%HL70357$E$$$not a number: send digits | a dot$not a number: send digits | a dot
            "#]],
        );
    }

    #[test]
    fn bytes_that_are_no_message_are_answered_too() {
        let fault = crate::parse(b"hello", &Limits::default()).unwrap_err();
        let text = String::from_utf8(nack(&fault, AckCode::AR, "W2", NOW)).unwrap().replace('\r', "\n");
        expect![[r#"
            MSH|^~\&|||||20261125013723.123+0000||ACK^^ACK|W2|P|2.5.1
            MSA|AR
            ERR|||100^Segment sequence error^HL70357|E|||no message header: a message must begin with MSH|no message header: a message must begin with MSH
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn the_answer_is_in_the_senders_character_set() {
        let bytes = b"MSH|^~\\&|K\xfcche|B|C|D|20200101||ADT^A01|1|P|2.5||||||8859/1\r";
        let message = crate::parse(bytes, &Limits::default()).unwrap();
        let answer = ack(&message, AckCode::AA, &[], "W1", NOW);
        assert!(answer.windows(6).any(|w| w == b"|K\xfcche"[..6].as_ref()));
    }

    #[test]
    fn modes_by_msh_15_and_16() {
        use AckCondition::*;
        for (fields, mode) in [
            ("", AckMode::Original),
            ("|||AL|NE", AckMode::Enhanced { accept: Always, application: Never }),
            ("|||NE|NE", AckMode::Enhanced { accept: Never, application: Never }),
            ("|||ER|SU", AckMode::Enhanced { accept: Error, application: Success }),
            ("||||AL", AckMode::Enhanced { accept: Never, application: Always }),
        ] {
            let text = format!("MSH|^~\\&|A|B|C|D|20200101||ADT^A01|1|P|2.5{fields}\r");
            assert_eq!(ack_mode(&crate::parse(text.as_bytes(), &Limits::default()).unwrap()), mode, "{fields}");
        }
        assert!(Error.wants(false) && !Error.wants(true) && Success.wants(true) && !Never.wants(false));
    }
}
