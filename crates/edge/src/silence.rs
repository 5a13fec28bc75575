//! Sources that have fallen silent: longer without a message than they declare. An alarm when it begins and when it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{DomainName, SourceName, Timestamp};
use clinical::Source;
use parking_lot::Mutex;

use crate::doors::Doors;

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Whether a source has said nothing for longer than it declares, counted from its last message or the node's start.
pub(crate) fn is_silent(source: &Source, last: Option<Timestamp>, started: Timestamp, now: Timestamp) -> bool {
    let Some(minutes) = source.silent_after_minutes else { return false };
    // A node that was down heard nobody: the source gets its time anew.
    let since = last.map_or(started, |last| last.max(started));
    now > since.plus_ms(i64::from(minutes) * 60_000)
}

/// Looks at the sources now and then.
pub struct SilenceWatch {
    doors: Arc<Doors>,
    silent: Mutex<BTreeMap<SourceName, bool>>,
}

impl SilenceWatch {
    pub fn new(doors: Arc<Doors>) -> Self {
        SilenceWatch { doors, silent: Mutex::default() }
    }

    pub async fn run(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the sources could not be looked at");
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The sources that changed since the last look: (domain, source, silent now).
    pub async fn look(&self) -> Result<Vec<(DomainName, SourceName, bool)>, store::StoreError> {
        let now = self.doors.clock.now();
        let mut changed = Vec::new();
        for (domain, parts) in &self.doors.domains {
            for receiver in parts.receivers.values() {
                let source = receiver.source();
                if source.silent_after_minutes.is_none() {
                    continue;
                }
                let last = self.doors.silver.last_entry(domain, &source.name).await?;
                let is = is_silent(source, last, self.doors.info.started, now);
                let was = self.silent.lock().insert(source.name.clone(), is).unwrap_or(false);
                if is == was {
                    continue;
                }
                changed.push((domain.clone(), source.name.clone(), is));
                if is {
                    let minutes = source.silent_after_minutes.unwrap_or_default();
                    tracing::warn!(target: "ward::alarm", %domain, source = %source.name, minutes,
                        "a source has fallen silent");
                } else {
                    tracing::warn!(target: "ward::alarm", %domain, source = %source.name, "a source speaks again");
                }
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_message_or_the_start() {
        let text = r#"{"name":"adt","kind":"hl7v2","silent_after_minutes":10}"#;
        let source: Source = serde_json::from_str(text).unwrap();
        let minute = |n: i64| Timestamp(n * 60_000);
        for (last, started, now, silent) in [
            (None, 0, 10, false),
            (None, 0, 11, true),
            (Some(5), 0, 15, false),
            (Some(5), 0, 16, true),
            (Some(5), 100, 105, false),
            (Some(5), 100, 111, true),
        ] {
            assert_eq!(is_silent(&source, last.map(minute), minute(started), minute(now)), silent, "{last:?} {now}");
        }
        let quiet: Source = serde_json::from_str(r#"{"name":"adt","kind":"hl7v2"}"#).unwrap();
        assert!(!is_silent(&quiet, None, minute(0), minute(10_000)));
    }
}
