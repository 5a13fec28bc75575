//! MLLP framing (HL7 v2 Transport Specification, MLLP release 1): `<SB> message <EB><CR>`.
//! Pure: never reads sockets (see `edge::mllp`), never parses segments (see [`crate::parse`]).

use std::collections::VecDeque;

const START: u8 = 0x0b;
const END: u8 = 0x1c;
const CR: u8 = 0x0d;

/// The connection that sent this cannot be trusted to be in step any more: close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the first byte is no MLLP start block: send 0x0B before a message")]
    NoStartBlock,
    #[error("bytes between two MLLP frames: send 0x0B right after 0x1C 0x0D")]
    Garbage,
    #[error("a message larger than this node takes: split it or raise the limit")]
    Oversize,
    #[error("the end block is not followed by a carriage return: end a message with 0x1C 0x0D")]
    BrokenEnd,
    #[error("a new message began before the last one ended: end a message with 0x1C 0x0D")]
    Unfinished,
    #[error("an empty frame: put a message between the blocks")]
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a start block; `true` before the first one.
    Between(bool),
    Inside,
    /// The end block came, its carriage return did not yet.
    Ending,
    Failed,
}

/// Turns bytes as they arrive into frames. Holds at most `message_bytes_max` bytes of an unfinished frame.
#[derive(Debug)]
pub struct Decoder {
    message_bytes_max: usize,
    state: State,
    partial: Vec<u8>,
    ready: VecDeque<Result<Vec<u8>, FrameError>>,
}

impl Decoder {
    pub fn new(message_bytes_max: usize) -> Self {
        Decoder { message_bytes_max, state: State::Between(true), partial: Vec::new(), ready: VecDeque::new() }
    }

    /// Takes bytes from the wire. After an error everything is dropped.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Failed => return,
                State::Between(first) => self.between(bytes, first),
                State::Inside => self.inside(bytes),
                State::Ending => self.ending(bytes),
            };
        }
    }

    /// The next whole message, `None` until more bytes come. After an error, the same error again.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        match self.ready.front() {
            Some(Err(error)) => Err(*error),
            Some(Ok(_)) => self.ready.pop_front().transpose(),
            None => Ok(None),
        }
    }

    /// Whether a message has begun and not ended: what is left when the peer closes is then a broken frame.
    pub fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside | State::Ending)
    }

    fn fail(&mut self, error: FrameError) {
        self.state = State::Failed;
        self.partial = Vec::new();
        self.ready.push_back(Err(error));
    }

    fn between<'b>(&mut self, bytes: &'b [u8], first: bool) -> &'b [u8] {
        // Some senders put line ends between frames: harmless, so let them.
        let Some(at) = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')) else { return &[] };
        if bytes[at] == START {
            self.state = State::Inside;
        } else {
            self.fail(if first { FrameError::NoStartBlock } else { FrameError::Garbage });
        }
        &bytes[at + 1..]
    }

    fn inside<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let end = bytes.iter().position(|b| *b == END);
        let content = &bytes[..end.unwrap_or(bytes.len())];
        if self.partial.len() + content.len() > self.message_bytes_max {
            self.fail(FrameError::Oversize);
            return &[];
        }
        self.partial.extend_from_slice(content);
        match end {
            None => &[],
            Some(end) => {
                self.state = State::Ending;
                &bytes[end + 1..]
            }
        }
    }

    fn ending<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if bytes[0] != CR {
            self.fail(FrameError::BrokenEnd);
            return &[];
        }
        if self.partial.is_empty() {
            self.fail(FrameError::Empty);
            return &[];
        }
        // A vertical tab can be text; a whole header after one is a message that was begun anew.
        if self.partial.windows(4).any(|w| w == b"\x0bMSH") {
            self.fail(FrameError::Unfinished);
            return &[];
        }
        self.state = State::Between(false);
        self.ready.push_back(Ok(std::mem::take(&mut self.partial)));
        &bytes[1..]
    }
}

/// A message in its frame, ready for the wire.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 3);
    out.push(START);
    out.extend_from_slice(message);
    out.extend_from_slice(&[END, CR]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(bytes: &[u8], chunk: usize) -> (Vec<Vec<u8>>, Option<FrameError>) {
        let mut decoder = Decoder::new(16);
        let mut frames = Vec::new();
        for part in bytes.chunks(chunk) {
            decoder.push(part);
            assert!(decoder.partial.len() <= 16);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(decoder.next_frame(), Err(error));
                        return (frames, Some(error));
                    }
                }
            }
        }
        (frames, None)
    }

    #[test]
    fn frames_and_faults_however_the_bytes_arrive() {
        let sixteen = [b"\x0b".as_slice(), &[b'x'; 16], b"\x1c\r"].concat();
        let seventeen = [b"\x0b".as_slice(), &[b'x'; 17], b"\x1c\r"].concat();
        let cases: &[(&[u8], usize, Option<FrameError>)] = &[
            (b"\x0bMSH|1\x1c\r\x0bMSH|2\x1c\r", 2, None),
            (b"\r\n\x0bMSH|1\x1c\r\n\r\n\x0bMSH|2\x1c\r\n", 2, None),
            (b"\x0ba\x0bb\x1c\r", 1, None),
            (&sixteen, 1, None),
            (&seventeen, 0, Some(FrameError::Oversize)),
            (b"\x0bxxxxxxxxxxxxxxxxxxxxxxxxxxx", 0, Some(FrameError::Oversize)),
            (b"MSH|1\x1c\r", 0, Some(FrameError::NoStartBlock)),
            (b"GET / HTTP/1.1\r\n", 0, Some(FrameError::NoStartBlock)),
            (b"\x16\x03\x01\x02", 0, Some(FrameError::NoStartBlock)),
            (b"\x0bMSH|1\x1c\rjunk\x0bMSH|2\x1c\r", 1, Some(FrameError::Garbage)),
            (b"\x0bMSH|1\x1c\r\x1c\r", 1, Some(FrameError::Garbage)),
            (b"\x0bMSH|1\x1cx", 0, Some(FrameError::BrokenEnd)),
            (b"\x0bMSH|1\x1c\x0bMSH|2\x1c\r", 0, Some(FrameError::BrokenEnd)),
            (b"\x0bMSH|1\x0bMSH|2\x1c\r", 0, Some(FrameError::Unfinished)),
            (b"\x0b\x1c\r", 0, Some(FrameError::Empty)),
            (b"\x0bMSH|1", 0, None),
        ];
        for (bytes, frames, error) in cases {
            for chunk in [1, 2, 3, 7, 64] {
                let (got, failed) = run(bytes, chunk);
                assert_eq!((got.len(), failed), (*frames, *error), "{:?} by {chunk}", bytes.escape_ascii().to_string());
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_framed_comes_out(messages in prop::collection::vec("[A-Za-z|^~\r]{1,16}", 0..8), chunk in 1usize..40) {
            let wire: Vec<u8> = messages.iter().flat_map(|m| frame(m.as_bytes())).collect();
            let (frames, error) = run(&wire, chunk);
            prop_assert_eq!(error, None);
            prop_assert_eq!(frames, messages.iter().map(|m| m.as_bytes().to_vec()).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(prop_oneof![Just(0x0bu8), Just(0x1c), Just(0x0d), any::<u8>()], 0..200), chunk in 1usize..40) {
            run(&bytes, chunk);
        }
    }
}
