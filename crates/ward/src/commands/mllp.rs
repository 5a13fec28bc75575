//! `ward hl7 send` and `receive`: both ends of MLLP for the person at the interface desk. Neither needs a node.
//!
//! What is said about messages is counts, codes and times; a received message is written for its owner alone.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::Limits;
use clap::Args;
use hl7v2::AckCode;
use hl7v2::mllp::{Decoder, frame};
use net::{Connection, Drain, Listener};
use parking_lot::Mutex;
use relay::{Destination, Scheme, SendError, Target};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::desk::{bytes_of, messages_of};
use super::{Failure, Result, now, progress, put_file, say};
use crate::cli::Cli;

/// Messages of one command that are kept in memory.
const MESSAGES_MAX: usize = 1_000_000;
const CONNECTIONS_MAX: usize = 256;

#[derive(Debug, Args)]
pub struct Send {
    /// Files or folders of messages, or `-` for standard input.
    #[arg(required = true)]
    pub messages: Vec<String>,
    /// mllp://HOST:PORT or mllps://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// Authorities that the receiver's certificate must come from, in PEM; for mllps.
    #[arg(long, value_name = "FILE")]
    pub authority: Option<PathBuf>,
    /// Our certificate and key, in PEM, where the receiver asks for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Messages in a second, over all connections; as fast as they are answered without it.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Connections at once. Messages keep their order over one.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Send nothing more after the first message that is not accepted.
    #[arg(long)]
    pub stop_on_error: bool,
    /// Seconds for connecting, and for an answer.
    #[arg(long, default_value_t = 30)]
    pub timeout: u64,
    /// Send in the clear to another machine, too. Only for messages that are about nobody.
    #[arg(long)]
    pub clear: bool,
}

/// What became of the messages.
#[derive(Default)]
struct Sent {
    accepted: u64,
    /// By answer: `AE`, `AR`, `no answer`.
    refused: BTreeMap<String, u64>,
    latencies_us: Vec<u64>,
    /// The first refusals, by file and place in it.
    told: Vec<String>,
}

const TOLD_MAX: usize = 20;

pub async fn send(cli: &Cli, send: &Send) -> Result {
    let target = target(send)?;
    if send.connections == 0 || send.connections > CONNECTIONS_MAX {
        return Err(Failure::said(format!("--connections is 1 to {CONNECTIONS_MAX}")));
    }
    if send.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e6)) {
        return Err(Failure::said("--rate is a number above 0, and at most 1000000"));
    }
    let identity = send.certificate.as_deref().zip(send.key.as_deref());
    let tls = match (&send.authority, target.scheme) {
        (Some(authority), Scheme::Mllps) => {
            Some(net::client_config(authority, identity).map_err(|error| Failure::said(error.to_string()))?)
        }
        (None, Scheme::Mllps) => return Err(Failure::said("mllps needs --authority FILE: whom to trust")),
        _ => None,
    };
    let queue = read(&send.messages)?;
    let total = queue.len();
    let work = Arc::new(Work {
        queue: Mutex::new(queue),
        sent: Mutex::default(),
        stop: AtomicBool::new(false),
        begun: Instant::now(),
        given: AtomicU64::new(0),
        between: send.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
        stop_on_error: send.stop_on_error,
    });
    let timeout = Duration::from_secs(send.timeout.clamp(1, 3_600));
    let mut workers = Vec::new();
    for _ in 0..send.connections.min(total.max(1)) {
        let destination = Destination::new(target.clone(), Path::new("."), tls.clone(), false, timeout);
        workers.push(tokio::spawn(work.clone().run(destination)));
    }
    for worker in workers {
        worker.await.map_err(|error| Failure::said(error.to_string()))?;
    }
    let took = work.begun.elapsed();
    let sent = std::mem::take(&mut *work.sent.lock());
    report(cli, total, &sent, took)
}

fn target(send: &Send) -> Result<Target> {
    let target = Target::try_from(send.to.clone()).map_err(Failure::said)?;
    if !matches!(target.scheme, Scheme::Mllp | Scheme::Mllps) {
        return Err(Failure::said("send to mllp://HOST:PORT or mllps://HOST:PORT"));
    }
    let is_here = target.host == "localhost" || target.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if target.scheme == Scheme::Mllp && !is_here && !send.clear {
        return Err(Failure::said(
            "this would send messages in the clear over the network: use mllps://, or --clear for messages about nobody",
        ));
    }
    Ok(target)
}

type Message = (String, Vec<u8>);

/// Every message with its name for people.
fn read(paths: &[String]) -> Result<VecDeque<Message>> {
    let limits = Limits::default();
    let mut queue = VecDeque::new();
    let mut add = |name: &str| -> Result {
        let bytes = bytes_of(name)?;
        for (n, message) in messages_of(name, &bytes, &limits)?.into_iter().enumerate() {
            if queue.len() >= MESSAGES_MAX {
                return Err(Failure::said(format!("more than {MESSAGES_MAX} messages: send them in parts")));
            }
            queue.push_back((format!("{name}:{}", n + 1), message.to_vec()));
        }
        Ok(())
    };
    for path in paths {
        if path != "-" && Path::new(path).is_dir() {
            let mut files: Vec<PathBuf> = std::fs::read_dir(path)?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.is_file())
                .collect();
            files.sort();
            for file in files {
                add(&file.display().to_string())?;
            }
        } else {
            add(path)?;
        }
    }
    Ok(queue)
}

struct Work {
    queue: Mutex<VecDeque<Message>>,
    sent: Mutex<Sent>,
    stop: AtomicBool,
    begun: Instant,
    given: AtomicU64,
    between: Option<Duration>,
    stop_on_error: bool,
}

impl Work {
    async fn run(self: Arc<Self>, mut destination: Destination) {
        let limits = Limits::default();
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let next = self.queue.lock().pop_front();
            let Some((name, message)) = next else { return };
            let n = self.given.fetch_add(1, Ordering::Relaxed);
            if let Some(between) = self.between {
                tokio::time::sleep_until((self.begun + between.mul_f64(n as f64)).into()).await;
            }
            if n > 0 && n.is_multiple_of(1_000) {
                progress(&format!("{n} sent"));
            }
            let bytes = relay::asking_for_an_answer(message, &limits);
            let control_id = hl7v2::parse(&bytes, &limits).map(|message| message.control_id()).unwrap_or_default();
            let begun = Instant::now();
            let answer = destination.send(&bytes, &control_id, n).await;
            self.count(&name, &answer, begun.elapsed());
        }
    }

    fn count(&self, name: &str, answer: &std::result::Result<(), SendError>, took: Duration) {
        let mut sent = self.sent.lock();
        let code = match answer {
            Ok(()) => {
                sent.accepted += 1;
                sent.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                return;
            }
            Err(SendError::Failed(code) | SendError::Rejected(code)) => {
                sent.latencies_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                code.clone()
            }
            Err(SendError::Away(_)) => "no answer".to_owned(),
        };
        if sent.told.len() < TOLD_MAX
            && let Err(error) = answer
        {
            sent.told.push(format!("{name}: {error}"));
        }
        *sent.refused.entry(code).or_default() += 1;
        if self.stop_on_error {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Of sorted values the one that this part of them does not exceed.
fn percentile(sorted: &[u64], part: f64) -> u64 {
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(at - 1).copied().unwrap_or(0)
}

fn report(cli: &Cli, total: usize, sent: &Sent, took: Duration) -> Result {
    let mut latencies = sent.latencies_us.clone();
    latencies.sort_unstable();
    let refused: u64 = sent.refused.values().sum();
    let tried = sent.accepted + refused;
    let rate = tried as f64 / took.as_secs_f64().max(1e-9);
    let ms = |part| percentile(&latencies, part) as f64 / 1_000.0;
    if cli.json {
        let value = json!({
            "messages": total,
            "sent": tried,
            "accepted": sent.accepted,
            "refused": sent.refused,
            "seconds": took.as_secs_f64(),
            "per_second": rate,
            "latency_ms": { "p50": ms(0.5), "p95": ms(0.95), "p99": ms(0.99), "max": ms(1.0) },
            "told": sent.told,
        });
        say(&value.to_string());
    } else {
        sent.told.iter().for_each(|line| say(line));
        let codes: Vec<String> = sent.refused.iter().map(|(code, n)| format!("{n} {code}")).collect();
        let codes = if codes.is_empty() { "none refused".to_owned() } else { codes.join(", ") };
        say(&format!("{tried} of {total} sent, {} accepted, {codes}", sent.accepted));
        say(&format!(
            "{rate:.0} a second; answered in {:.1} ms at the median, {:.1} at p95, {:.1} at p99, {:.1} at most",
            ms(0.5),
            ms(0.95),
            ms(0.99),
            ms(1.0)
        ));
    }
    match sent.accepted == total as u64 {
        true => Ok(()),
        false => Err(Failure::said(format!("{} message(s) were not accepted", total as u64 - sent.accepted))),
    }
}

#[derive(Debug, Args)]
pub struct Receive {
    /// The address to listen on; port 0 lets the system choose.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The folder to write messages into, one a file.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// What is answered: AA, AE, AR, CA, CE or CR.
    #[arg(long, default_value = "AA", value_parser = ack_code)]
    pub code: AckCode,
    /// Answer each message so many milliseconds late.
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// Stop after so many messages.
    #[arg(long, default_value_t = 10_000)]
    pub count: u64,
    /// Certificate and key of the listener, in PEM: it then speaks TLS.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Ask senders for a certificate of these authorities, in PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub client_authorities: Option<PathBuf>,
    /// Listen in the clear to other machines, too. Only for messages that are about nobody.
    #[arg(long)]
    pub clear: bool,
}

fn ack_code(text: &str) -> std::result::Result<AckCode, String> {
    let all = [AckCode::AA, AckCode::AE, AckCode::AR, AckCode::CA, AckCode::CE, AckCode::CR];
    let found = all.into_iter().find(|code| code.code() == text);
    found.ok_or_else(|| "a code is one of AA, AE, AR, CA, CE, CR".to_owned())
}

pub async fn receive(cli: &Cli, receive: &Receive) -> Result {
    let tls = match (&receive.certificate, &receive.key) {
        (Some(certificate), Some(key)) => Some(
            net::server_config(certificate, key, receive.client_authorities.as_deref(), &[])
                .map_err(|error| Failure::said(error.to_string()))?,
        ),
        _ => None,
    };
    if tls.is_none() && !receive.listen.ip().is_loopback() && !receive.clear {
        return Err(Failure::said(
            "this would take messages in the clear from the network: give --certificate and --key, or --clear",
        ));
    }
    std::fs::create_dir_all(&receive.out)?;
    let listener = Listener::bind(receive.listen, tls, CONNECTIONS_MAX, Duration::from_secs(10)).await?;
    let address = listener.address()?;
    let stop = super::serve::shutdown();
    say(&if cli.json {
        json!({ "listening": address }).to_string()
    } else {
        format!("listening on {address}, writing into {}", receive.out.display())
    });
    let inbox = Arc::new(Inbox {
        folder: receive.out.clone(),
        code: receive.code,
        delay: Duration::from_millis(receive.delay_ms),
        left: AtomicU64::new(receive.count),
        taken: AtomicU64::new(0),
        full: tokio::sync::Notify::new(),
    });
    let drain = Drain::new();
    let (closing, at_work) = (drain.clone(), inbox.clone());
    let serving = listener.serve(drain.clone(), move |connection| {
        let (inbox, closing) = (at_work.clone(), closing.clone());
        async move { inbox.converse(connection, &closing).await }
    });
    tokio::select! {
        () = serving => {}
        () = stop => {}
        () = inbox.full.notified() => {}
    }
    drain.finish(Duration::from_secs(5)).await;
    let taken = inbox.taken.load(Ordering::SeqCst);
    say(&if cli.json { json!({ "received": taken }).to_string() } else { format!("{taken} message(s) received") });
    Ok(())
}

struct Inbox {
    folder: PathBuf,
    code: AckCode,
    delay: Duration,
    left: AtomicU64,
    taken: AtomicU64,
    full: tokio::sync::Notify,
}

impl Inbox {
    async fn converse(&self, connection: Connection, drain: &Drain) {
        let limits = Limits::default();
        let (mut stream, _slot) = connection.into_parts();
        let mut decoder = Decoder::new(limits.hl7_message_bytes_max);
        let mut buffer = vec![0; 16 << 10];
        loop {
            loop {
                match decoder.next_frame() {
                    Ok(Some(message)) => {
                        // What is beyond the count is neither written nor answered.
                        let place = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                        if place.is_err() {
                            return;
                        }
                        let Some(answer) = self.take(&message, &limits) else { return };
                        tokio::time::sleep(self.delay).await;
                        if stream.write_all(&frame(&answer)).await.is_err() || stream.flush().await.is_err() {
                            return;
                        }
                        if place == Ok(1) {
                            self.full.notify_one();
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        progress(&format!("closing a connection: {error}"));
                        return;
                    }
                }
            }
            tokio::select! {
                () = drain.closing() => return,
                read = stream.read(&mut buffer) => match read {
                    Ok(n) if n > 0 => decoder.push(&buffer[..n]),
                    _ => return,
                },
            }
        }
    }

    /// Written whole, and then answered; `None` where it cannot be written.
    fn take(&self, message: &[u8], limits: &Limits) -> Option<Vec<u8>> {
        let n = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        let parsed = hl7v2::parse(message, limits);
        let kind = match &parsed {
            Ok(parsed) => parsed.info(),
            Err(_) => hl7v2::MessageInfo::default(),
        };
        // Of the type only what is safe in a name.
        let word = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).take(3).collect::<String>();
        let name = format!("{n:06}-{}-{}.hl7", word(&kind.code), word(&kind.trigger));
        if let Err(error) = put_file(&self.folder.join(&name), message) {
            progress(&format!("a message could not be written: {error}"));
            return None;
        }
        let control_id = format!("R{n}");
        Some(match &parsed {
            Ok(parsed) => hl7v2::ack(parsed, self.code, &[], &control_id, now()),
            Err(fault) => hl7v2::nack(fault, AckCode::AR, &control_id, now()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_came() {
        let values: Vec<u64> = (1..=100).collect();
        for (part, value) in [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)] {
            assert_eq!(percentile(&values, part), value);
        }
        assert_eq!((percentile(&[7], 0.5), percentile(&[], 0.5)), (7, 0));
    }
}
