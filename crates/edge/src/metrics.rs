//! Counters and histograms in the Prometheus text format. Labels are sources, doors and status classes: never PHI.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    sum_us: AtomicU64,
    count: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            if seconds <= *bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", bucket.load(Ordering::Relaxed));
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

/// What the doors count.
#[derive(Debug, Default)]
pub struct Metrics {
    http_latency: Histogram,
    http_status: [AtomicU64; 6],
    ack_latency: Histogram,
    /// (domain, source, acknowledgement code) → messages.
    hl7: Mutex<BTreeMap<(String, String, &'static str), u64>>,
    pub mllp_connections: AtomicU64,
    pub mllp_framing_errors: AtomicU64,
    pub mllp_unknown_senders: AtomicU64,
    pub audit_refusals: AtomicU64,
}

impl Metrics {
    pub fn http(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).min(5);
        self.http_status[class].fetch_add(1, Ordering::Relaxed);
        self.http_latency.observe(took);
    }

    pub fn hl7(&self, domain: &str, source: &str, code: &'static str, took: Duration) {
        *self.hl7.lock().entry((domain.to_owned(), source.to_owned(), code)).or_default() += 1;
        self.ack_latency.observe(took);
    }

    /// Messages of a source by acknowledgement, since the node started.
    pub fn hl7_answers(&self, domain: &str, source: &str) -> Vec<(&'static str, u64)> {
        let counts = self.hl7.lock();
        let of_source = counts.iter().filter(|((d, s, _), _)| d == domain && s == source);
        of_source.map(|((_, _, code), n)| (*code, *n)).collect()
    }

    /// `gauges` are read from the logs and consumers at this moment: (name, labels, value).
    pub fn render(&self, gauges: &[(&str, String, u64)]) -> String {
        let mut out = String::new();
        self.http_latency.write(&mut out, "ward_http_request_seconds", "Time to answer an HTTP request.");
        self.ack_latency.write(
            &mut out,
            "ward_hl7_ack_seconds",
            "Time from a whole HL7 v2 message to its acknowledgement.",
        );
        let _ = writeln!(
            out,
            "# HELP ward_http_responses_total HTTP answers by class.\n# TYPE ward_http_responses_total counter"
        );
        for (class, count) in self.http_status.iter().enumerate().skip(1) {
            let _ = writeln!(out, "ward_http_responses_total{{class=\"{class}xx\"}} {}", count.load(Ordering::Relaxed));
        }
        let _ = writeln!(
            out,
            "# HELP ward_hl7_messages_total HL7 v2 messages by acknowledgement.\n# TYPE ward_hl7_messages_total counter"
        );
        for ((domain, source, code), count) in self.hl7.lock().iter() {
            let _ = writeln!(
                out,
                "ward_hl7_messages_total{{domain=\"{domain}\",source=\"{source}\",ack=\"{code}\"}} {count}"
            );
        }
        for (name, value) in [
            ("ward_mllp_connections", &self.mllp_connections),
            ("ward_mllp_framing_errors_total", &self.mllp_framing_errors),
            ("ward_mllp_unknown_senders_total", &self.mllp_unknown_senders),
            ("ward_audit_refusals_total", &self.audit_refusals),
        ] {
            let _ = writeln!(out, "{name} {}", value.load(Ordering::Relaxed));
        }
        for (name, labels, value) in gauges {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
        out
    }
}
