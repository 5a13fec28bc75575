//! Shipping to a real TLS receiver that is told to lose, to stall and to die.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base::{DomainName, Layer, PrincipalId, Timestamp};
use gate::{AuditRecord, Outcome};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Format;
use crate::ship::{BATCH_MAX, Batch, Marks, Parts, Records, Shipper};
use crate::syslog::{Confirm, Receiver, SendError};

/// How a receiver ends a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Reads all, answers close_notify.
    Clean,
    /// Reads all, and closes TCP without a word of TLS.
    NoCloseNotify,
    /// Reads so many bytes and is gone: what else was on the way is lost.
    After(usize),
}

struct Server {
    port: u16,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    ends: Arc<Mutex<Vec<End>>>,
}

/// Each session ends as the next of `ends` says, and cleanly when there is none left.
async fn server(folder: &Path, ends: Vec<End>) -> Server {
    net::DevCertificates::ensure(folder).unwrap();
    let config = net::server_config(&folder.join("server.pem"), &folder.join("server.key"), None, &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (received, ends) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(ends)));
    let server = Server { port, received: received.clone(), ends: ends.clone() };
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        while let Ok((socket, _)) = listener.accept().await {
            let end = if ends.lock().is_empty() { End::Clean } else { ends.lock().remove(0) };
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut session = Vec::new();
            let mut part = vec![0; 1 << 14];
            loop {
                if let End::After(bytes) = end
                    && session.len() >= bytes
                {
                    break;
                }
                match stream.read(&mut part).await {
                    Ok(n) if n > 0 => session.extend_from_slice(&part[..n]),
                    _ => break,
                }
            }
            match end {
                End::Clean => drop(stream.shutdown().await),
                // The socket is dropped below TLS.
                End::NoCloseNotify | End::After(_) => drop(stream),
            }
            received.lock().push(session);
        }
    });
    server
}

/// Octet counting, as a receiver reads it; a message that was cut is left out.
fn messages(session: &[u8]) -> Vec<String> {
    let (mut out, mut rest) = (Vec::new(), session);
    while let Some(space) = rest.iter().position(|b| *b == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().expect("a length");
        let Some(message) = rest.get(space + 1..space + 1 + length) else { break };
        out.push(String::from_utf8(message.to_vec()).unwrap());
        rest = &rest[space + 1 + length..];
    }
    out
}

fn index_of(message: &str) -> u64 {
    message.split("externalId=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

struct Log {
    origin: Mutex<String>,
    size: tokio::sync::watch::Sender<u64>,
}

#[async_trait]
impl Records for Log {
    fn origin(&self) -> String {
        self.origin.lock().clone()
    }

    fn size(&self) -> u64 {
        *self.size.borrow()
    }

    async fn take(&self, from: u64, max: usize) -> Result<Option<Batch>, String> {
        let record = |index: u64| {
            let who = PrincipalId::parse("dr-lee").unwrap();
            let record = AuditRecord::new(
                Timestamp(index as i64),
                who,
                DomainName::parse("ehr").unwrap(),
                Layer::Silver,
                Outcome::Served,
            );
            let id = format!("00-{index}");
            (index, id, AuditRecord { action: "read".into(), what: "read Patient".into(), ..record }, vec![[7; 16]])
        };
        let next = self.size().min(from + max as u64);
        Ok(Some(Batch { records: (from..next).map(record).collect(), next, unreadable: 0 }))
    }

    async fn longer_than(&self, size: u64) {
        self.size.subscribe().wait_for(|now| *now > size).await.unwrap();
    }
}

#[derive(Default)]
struct Kept(Mutex<std::collections::HashMap<String, u64>>);

impl Marks for Kept {
    fn load(&self, origin: &str) -> Option<u64> {
        self.0.lock().get(origin).copied()
    }

    fn store(&self, origin: &str, next: u64) -> Result<(), String> {
        self.0.lock().insert(origin.to_owned(), next);
        Ok(())
    }
}

const FIRST: &str = "hospital/audit+1";

fn log(size: u64) -> Arc<Log> {
    Arc::new(Log { origin: Mutex::new(FIRST.into()), size: tokio::sync::watch::Sender::new(size) })
}

fn shipper(folder: &Path, port: u16, log: Arc<Log>, marks: Arc<Kept>, confirm: Confirm) -> Shipper {
    Shipper::new(Parts {
        name: "siem".into(),
        to: format!("syslog+tls://localhost:{port}"),
        format: Format::Cef,
        receiver: Receiver {
            host: "localhost".into(),
            port,
            tls: net::client_config(&folder.join("ca.pem"), None).unwrap(),
            confirm,
            timeout: Duration::from_secs(30),
            internal_only: true,
        },
        records: log,
        marks,
        place: crate::tests::place(),
        behind_max: 10_000,
    })
}

#[tokio::test]
async fn what_a_dying_receiver_lost_comes_again_in_order_and_only_within_the_window() {
    let folder = tempfile::tempdir().unwrap();
    let size = 2 * BATCH_MAX as u64 + 100;
    let ends = vec![End::After(1), End::Clean, End::After(200_000), End::NoCloseNotify, End::After(0)];
    let server = server(folder.path(), ends).await;
    let marks = Arc::new(Kept::default());
    let mut broken = 0;
    let mut shipper = self::shipper(folder.path(), server.port, log(size), marks.clone(), Confirm::CloseNotify);
    while shipper.status().next < size {
        match shipper.step().await {
            Ok(sent) => assert!(sent),
            Err(_) => {
                broken += 1;
                // As after a crash: only what is durable is known.
                shipper = self::shipper(folder.path(), server.port, log(size), marks.clone(), Confirm::CloseNotify);
            }
        }
    }
    assert_eq!(broken, 4, "every session without close_notify is a broken one");
    assert!(server.ends.lock().is_empty());
    let sessions = server.received.lock().clone();
    let mut seen = std::collections::BTreeMap::<u64, u32>::new();
    for session in &sessions {
        let indexes: Vec<u64> = messages(session).iter().map(|message| index_of(message)).collect();
        assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order");
        indexes.into_iter().for_each(|index| *seen.entry(index).or_default() += 1);
    }
    assert!(seen.keys().copied().eq(0..size), "every record arrived");
    let again: u32 = seen.values().map(|times| times - 1).sum();
    assert!(again <= broken * BATCH_MAX as u32);
    assert_eq!(marks.load(FIRST), Some(size));
}

#[tokio::test]
async fn an_end_without_close_notify_counts_only_when_it_was_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), vec![End::NoCloseNotify, End::NoCloseNotify]).await;
    let marks = Arc::new(Kept::default());
    let strict = shipper(folder.path(), server.port, log(3), marks.clone(), Confirm::CloseNotify);
    let trouble = strict.step().await.unwrap_err();
    assert_eq!(trouble, SendError::NoCloseNotify.to_string());
    assert_eq!((strict.status().next, marks.load(FIRST)), (0, None));
    let lenient = shipper(folder.path(), server.port, log(3), marks.clone(), Confirm::End);
    assert!(lenient.step().await.unwrap());
    assert_eq!(lenient.status().next, 3);
}

#[tokio::test]
async fn another_log_is_sent_from_its_beginning_and_a_lost_mark_sends_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), Vec::new()).await;
    let marks = Arc::new(Kept::default());
    let log = log(5);
    let first = shipper(folder.path(), server.port, log.clone(), marks.clone(), Confirm::CloseNotify);
    assert!(first.step().await.unwrap());
    assert!(!first.step().await.unwrap());
    assert_eq!(first.status().behind, 0);
    let again = shipper(folder.path(), server.port, log.clone(), marks.clone(), Confirm::CloseNotify);
    assert_eq!(again.status().next, 5, "a restart goes on where it was");
    *log.origin.lock() = "hospital/audit+2".into();
    assert!(again.step().await.unwrap());
    assert_eq!(server.received.lock().iter().map(|session| messages(session).len()).sum::<usize>(), 10);
    *log.origin.lock() = FIRST.into();
    assert!(!again.step().await.unwrap(), "a log that is back goes on where it was");
    marks.store(FIRST, 9).unwrap();
    let beyond = shipper(folder.path(), server.port, log.clone(), marks, Confirm::CloseNotify);
    assert_eq!(beyond.status().next, 0, "a mark beyond the log is of another one");
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    net::DevCertificates::ensure(other.path()).unwrap();
    let server = server(folder.path(), Vec::new()).await;
    // A certificate of another authority.
    let shipper = shipper(other.path(), server.port, log(3), Arc::new(Kept::default()), Confirm::CloseNotify);
    assert!(shipper.step().await.unwrap_err().contains("handshake"));
    assert!(server.received.lock().is_empty());
}

#[tokio::test]
async fn frames_are_counted_in_octets_and_carry_a_header() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), Vec::new()).await;
    let shipper = shipper(folder.path(), server.port, log(2), Arc::new(Kept::default()), Confirm::CloseNotify);
    shipper.step().await.unwrap();
    let session = server.received.lock()[0].clone();
    let messages = messages(&session);
    assert_eq!(messages.len(), 2);
    let header = "<85>1 1970-01-01T00:00:00.001Z hospital ward - CEF [origin software=\"Wardmesh\" swVersion=\"0.1.0\"][meta sequenceId=\"2\"] CEF:0|";
    assert!(messages[1].starts_with(header), "{}", messages[1]);
}
