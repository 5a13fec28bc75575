//! What the catalog knows of journal entries: where they came from, when, of which type, how large, and their state.
//! Answers searches without opening an entry.
//!
//! No column holds PHI in the clear. Control ids, senders and the identifiers of entries about nobody that is known are
//! keyed tokens; who an entry is about stands in lineage and in `held_entry`, by ordinal.

use std::collections::BTreeSet;

use base::{DomainName, Layer, LogicalId, Ordinal, Permit, Sensitivity, SourceName, Timestamp, Write};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row as _};

use super::Silver;
use super::types::Batch;
use super::work::source_name;
use crate::StoreError;
use crate::sql::{Cell, Rows, arguments, big, in_chunks, placeholders, unbig};

/// An entry as refine saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    pub index: u64,
    pub source: SourceName,
    pub at: Timestamp,
    /// `ADT^A01`, `fhir update`, `replay`: words of ours or of the standard.
    pub kind: String,
    /// As [`Silver::entry_token`] gives it.
    pub control: Option<i64>,
    /// Token of the sending application (MSH-3.1).
    pub sender: Option<i64>,
    /// Tokens of the identifiers that an entry names; kept only where no patient came of it.
    pub identifiers: Vec<i64>,
    /// The input as it came.
    pub bytes: u64,
    /// What lies in the log and the object store for it.
    pub stored: u64,
    /// It came from a source in shadow and changed nothing.
    pub shadow: bool,
}

/// A kind of keyed token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryToken {
    Control,
    Sender,
    Identifier,
}

/// Where an entry stands. One that is not refined yet is in no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    Refined,
    /// A unit of it is set aside.
    SetAside,
    /// A route delivered it.
    Forwarded,
    /// Its body was destroyed at the end of its time.
    Expired,
    Shadow,
}

impl EntryState {
    pub const ALL: [EntryState; 5] =
        [EntryState::Refined, EntryState::SetAside, EntryState::Forwarded, EntryState::Expired, EntryState::Shadow];

    pub fn code(self) -> &'static str {
        match self {
            EntryState::Refined => "refined",
            EntryState::SetAside => "set-aside",
            EntryState::Forwarded => "forwarded",
            EntryState::Expired => "expired",
            EntryState::Shadow => "shadow",
        }
    }

    /// The words of the condition; columns are those of `journal_entry e`.
    fn condition(self) -> &'static str {
        const OPEN: &str = "EXISTS (SELECT 1 FROM set_aside s WHERE s.domain = e.domain AND s.position = e.position AND \
                            s.resolved = 0)";
        match self {
            EntryState::Refined => {
                "e.shadow = 0 AND NOT EXISTS (SELECT 1 FROM set_aside s WHERE s.domain = e.domain AND \
                 s.position = e.position AND s.resolved = 0)"
            }
            EntryState::SetAside => OPEN,
            EntryState::Forwarded => "e.forwarded > 0",
            EntryState::Expired => "e.expired > 0",
            EntryState::Shadow => "e.shadow > 0",
        }
    }
}

/// What is looked for; everything that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryQuery {
    pub source: Option<SourceName>,
    /// `ADT^A01`, or `ADT` for every event of the type.
    pub kind: Option<String>,
    pub control: Option<i64>,
    pub sender: Option<i64>,
    /// First and last moment.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub state: Option<EntryState>,
    /// Entries about these, or, about nobody that is known, with this token of an identifier.
    pub patients: Option<(Vec<Ordinal>, Option<i64>)>,
    /// Only those whose bodies are there.
    pub living: bool,
    /// Bounds of positions: from, and below.
    pub first: Option<u64>,
    pub before: Option<u64>,
    /// Oldest first; newest first otherwise.
    pub ascending: bool,
    pub max: usize,
}

/// An entry as a search shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    pub index: u64,
    pub source: SourceName,
    pub at: Timestamp,
    pub kind: String,
    pub bytes: u64,
    pub stored: u64,
    /// Units set aside and not resolved.
    pub set_aside: u64,
    /// Deliveries by routes.
    pub forwarded: u64,
    pub expired: bool,
    pub shadow: bool,
}

/// A source's entries of one day, UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaySize {
    /// The day's first moment.
    pub day: Timestamp,
    pub source: SourceName,
    pub messages: u64,
    pub raw_bytes: u64,
    pub stored_bytes: u64,
    /// Of the messages, those whose bodies were destroyed at the end of their time.
    pub expired: u64,
}

/// How a source does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFigures {
    pub messages: u64,
    pub last: Option<Timestamp>,
    /// Units set aside and not resolved.
    pub set_aside: u64,
    /// Fields without a map, the most frequent first.
    pub unmapped: Vec<(String, u64)>,
}

/// For a column whose entry has none; no token is 0.
const NO_TOKEN: i64 = 0;
const PAGE_MAX: usize = 1_000;
/// Entries of one patient that a search looks through.
const PATIENT_POSITIONS_MAX: usize = 20_000;
/// Places of unmapped fields that are told apart for a source; the rest are counted together.
const PLACES_MAX: i64 = 2_000;
const OTHER_PLACES: &str = "other";
const UNMAPPED_SHOWN: i64 = 10;
const DAY_MS: i64 = 86_400_000;

const COLUMNS: &str = "e.position, e.source, e.at, e.kind, e.bytes, e.stored, (SELECT COUNT(*) FROM set_aside s WHERE \
                       s.domain = e.domain AND s.position = e.position AND s.resolved = 0), e.forwarded, e.expired, \
                       e.shadow";

impl Silver {
    /// What stands for a word in the catalog's columns of entries: 63 bits of an HMAC.
    pub fn entry_token(&self, kind: EntryToken, word: &str) -> i64 {
        let label = match kind {
            EntryToken::Control => "control",
            EntryToken::Sender => "sender",
            EntryToken::Identifier => "identifier",
        };
        self.0.secrets.entry_token(label, word.trim())
    }

    pub(super) async fn insert_entries(&self, tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
        let mut rows = Rows::new(
            "INSERT INTO journal_entry (domain, position, source, at, kind, control, sender, bytes, stored, forwarded, \
             expired, shadow)",
            12,
            // Told again when it leaves shadow.
            " ON CONFLICT (domain, position) DO UPDATE SET shadow = excluded.shadow",
        );
        let mut tokens =
            Rows::new("INSERT INTO journal_identifier (domain, token, position)", 3, " ON CONFLICT DO NOTHING");
        for entry in &batch.entries {
            rows.push([
                batch.domain.as_str().into(),
                big(entry.index)?.into(),
                entry.source.as_str().into(),
                entry.at.ms().into(),
                entry.kind.as_str().into(),
                entry.control.unwrap_or(NO_TOKEN).into(),
                entry.sender.unwrap_or(NO_TOKEN).into(),
                big(entry.bytes)?.into(),
                big(entry.stored)?.into(),
                0.into(),
                0.into(),
                i64::from(entry.shadow).into(),
            ]);
            for token in &entry.identifiers {
                tokens.push([batch.domain.as_str().into(), (*token).into(), big(entry.index)?.into()]);
            }
        }
        rows.insert(&mut *tx).await?;
        tokens.insert(&mut *tx).await?;
        self.count_unmapped(tx, batch).await
    }

    /// A sender can name fields without end: beyond a bound of places they are counted together.
    async fn count_unmapped(&self, tx: &mut AnyConnection, batch: &Batch) -> Result<(), StoreError> {
        for (source, place, n) in &batch.unmapped {
            let known = "UPDATE unmapped_field SET n = n + $4 WHERE domain = $1 AND source = $2 AND place = $3";
            let bound = |text: &'static str, place: &str| {
                sqlx::query(text)
                    .bind(batch.domain.as_str().to_owned())
                    .bind(source.as_str().to_owned())
                    .bind(place.to_owned())
            };
            let n = big(*n)?;
            if bound(known, place).bind(n).execute(&mut *tx).await?.rows_affected() > 0 {
                continue;
            }
            let (places,) =
                sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM unmapped_field WHERE domain = $1 AND source = $2")
                    .bind(batch.domain.as_str())
                    .bind(source.as_str())
                    .fetch_one(&mut *tx)
                    .await?;
            let place = if places < PLACES_MAX { place.as_str() } else { OTHER_PLACES };
            let insert = "INSERT INTO unmapped_field (domain, source, place, n) VALUES ($1, $2, $3, $4) \
                          ON CONFLICT (domain, source, place) DO UPDATE SET n = unmapped_field.n + excluded.n";
            bound(insert, place).bind(n).execute(&mut *tx).await?;
        }
        Ok(())
    }

    /// Entries that were refined, a page of them.
    pub async fn entries(&self, domain: &DomainName, query: &EntryQuery) -> Result<Vec<EntryRow>, StoreError> {
        let max = query.max.clamp(1, PAGE_MAX);
        let Some((patients, token)) = &query.patients else {
            return self.entry_page(domain, query, None, max).await;
        };
        let mut positions: Vec<i64> = self.positions_of(domain, patients, *token).await?.into_iter().collect();
        if !query.ascending {
            positions.reverse();
        }
        let mut rows = Vec::new();
        for chunk in in_chunks(&positions) {
            rows.extend(self.entry_page(domain, query, Some(&chunk), max - rows.len()).await?);
            if rows.len() >= max {
                break;
            }
        }
        Ok(rows)
    }

    async fn entry_page(
        &self,
        domain: &DomainName,
        query: &EntryQuery,
        among: Option<&[i64]>,
        max: usize,
    ) -> Result<Vec<EntryRow>, StoreError> {
        let mut text = format!("SELECT {COLUMNS} FROM journal_entry e WHERE e.domain = $1");
        let mut cells: Vec<Cell> = vec![domain.as_str().into()];
        let mut and = |condition: &str, cell: Cell| {
            cells.push(cell);
            text.push_str(" AND ");
            text.push_str(&condition.replace("$?", &format!("${}", cells.len())));
        };
        if let Some(source) = &query.source {
            and("e.source = $?", source.as_str().into());
        }
        if let Some(kind) = &query.kind {
            if kind.len() == 3 && kind.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
                // Every event of the type: a range, so that the index serves it, whatever the database's collation.
                and("e.kind >= $?", format!("{kind}^").as_str().into());
                and("e.kind <= $?", format!("{kind}^ZZZ").as_str().into());
            } else {
                and("e.kind = $?", kind.as_str().into());
            }
        }
        if let Some(control) = query.control {
            and("e.control = $?", control.into());
        }
        if let Some(sender) = query.sender {
            and("e.sender = $?", sender.into());
        }
        if let Some(from) = query.from {
            and("e.at >= $?", from.ms().into());
        }
        if let Some(to) = query.to {
            and("e.at <= $?", to.ms().into());
        }
        if let Some(first) = query.first {
            and("e.position >= $?", big(first)?.into());
        }
        if let Some(before) = query.before {
            and("e.position < $?", big(before)?.into());
        }
        if let Some(state) = query.state {
            text.push_str(" AND ");
            text.push_str(state.condition());
        }
        if query.living {
            text.push_str(" AND e.expired = 0");
        }
        if let Some(among) = among {
            text.push_str(" AND e.position IN ");
            text.push_str(&placeholders(cells.len(), among.len()));
            cells.extend(among.iter().map(|position| Cell::Int(*position)));
        }
        cells.push(Cell::Int(i64::try_from(max).unwrap_or(i64::MAX)));
        let order = if query.ascending { "ASC" } else { "DESC" };
        text.push_str(&format!(" ORDER BY e.position {order} LIMIT ${}", cells.len()));
        let rows =
            sqlx::query_with(AssertSqlSafe(text), arguments(cells)?).fetch_all(self.0.catalog.db.readers()).await?;
        rows.iter().map(entry_row).collect()
    }

    /// Positions of entries that are about the patients, in order.
    async fn positions_of(
        &self,
        domain: &DomainName,
        patients: &[Ordinal],
        token: Option<i64>,
    ) -> Result<BTreeSet<i64>, StoreError> {
        let mut found = BTreeSet::new();
        let max = PATIENT_POSITIONS_MAX as i64;
        for patient in patients {
            let rows = sqlx::query(
                "SELECT positions FROM resource_version WHERE domain = $1 AND ordinal = $2 ORDER BY change DESC LIMIT $3",
            )
            .bind(domain.as_str())
            .bind(i64::from(patient.0))
            .bind(max)
            .fetch_all(self.0.catalog.db.readers())
            .await?;
            for row in &rows {
                let positions: Vec<u8> = row.try_get(0)?;
                for position in super::read::decode_positions(&positions) {
                    found.insert(big(position)?);
                }
            }
            let held = sqlx::query_as::<_, (i64,)>(
                "SELECT position FROM held_entry WHERE domain = $1 AND ordinal = $2 ORDER BY position DESC LIMIT $3",
            )
            .bind(domain.as_str())
            .bind(i64::from(patient.0))
            .bind(max)
            .fetch_all(self.0.catalog.db.readers())
            .await?;
            found.extend(held.into_iter().map(|(position,)| position));
        }
        if let Some(token) = token {
            let named = sqlx::query_as::<_, (i64,)>(
                "SELECT position FROM journal_identifier WHERE domain = $1 AND token = $2 ORDER BY position DESC LIMIT $3",
            )
            .bind(domain.as_str())
            .bind(token)
            .bind(max)
            .fetch_all(self.0.catalog.db.readers())
            .await?;
            found.extend(named.into_iter().map(|(position,)| position));
        }
        Ok(found)
    }

    /// The latest entry that the newest version of a resource came from.
    pub async fn newest_position(
        &self,
        domain: &DomainName,
        rtype: &str,
        id: &LogicalId,
    ) -> Result<Option<u64>, StoreError> {
        let token = self.0.secrets.token(domain, rtype, id.as_str());
        let row = sqlx::query(
            "SELECT positions FROM resource_version WHERE domain = $1 AND token = $2 ORDER BY version DESC LIMIT 1",
        )
        .bind(domain.as_str())
        .bind(token.to_vec())
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let positions: Vec<u8> = row.try_get(0)?;
        Ok(super::read::decode_positions(&positions).into_iter().max())
    }

    /// How many versions came of an entry.
    pub async fn versions_of(&self, domain: &DomainName, position: u64) -> Result<u64, StoreError> {
        let (n,) = sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM lineage WHERE domain = $1 AND position = $2")
            .bind(domain.as_str())
            .bind(big(position)?)
            .fetch_one(self.0.catalog.db.readers())
            .await?;
        Ok(unbig(n))
    }

    /// Marks entries whose bodies were destroyed at the end of their time; nothing of what identifies them stays.
    pub async fn mark_expired(
        &self,
        permit: &Permit<Write>,
        domain: &DomainName,
        positions: &[u64],
    ) -> Result<(), StoreError> {
        self.check_live(permit)?;
        permit.covers_kind(domain, Layer::Silver, "Patient")?;
        let keys = positions.iter().map(|position| big(*position)).collect::<Result<Vec<i64>, _>>()?;
        let mut turn = self.0.catalog.db.write().await?;
        for chunk in in_chunks(&keys) {
            let list = placeholders(1, chunk.len());
            for head in ["UPDATE journal_entry SET expired = 1, control = 0", "DELETE FROM journal_identifier"] {
                let text = format!("{head} WHERE domain = $1 AND position IN {list}");
                let cells = std::iter::once(Cell::from(domain.as_str())).chain(chunk.iter().map(|key| Cell::Int(*key)));
                sqlx::query_with(AssertSqlSafe(text), arguments(cells)?).execute(&mut *turn.tx).await?;
            }
        }
        turn.commit().await
    }

    /// Whom a refined entry is about, with the most sensitive of what it made about each.
    pub async fn entry_patients(
        &self,
        domain: &DomainName,
        position: u64,
    ) -> Result<Vec<(Ordinal, Sensitivity)>, StoreError> {
        let rows = sqlx::query_as::<_, (i64, i64)>(
            "SELECT ordinal, sensitivity FROM resource_version WHERE domain = $1 AND change IN (SELECT change FROM \
             lineage WHERE domain = $1 AND position = $2) UNION SELECT ordinal, 0 FROM held_entry WHERE domain = $1 AND \
             position = $2",
        )
        .bind(domain.as_str())
        .bind(big(position)?)
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let mut all = std::collections::BTreeMap::new();
        for (ordinal, sensitivity) in rows {
            let ordinal = u32::try_from(ordinal).map_err(|_| StoreError::corrupt("an ordinal is out of its range"))?;
            let bits = u16::try_from(sensitivity).unwrap_or(u16::MAX);
            *all.entry(ordinal).or_insert(0) |= bits;
        }
        Ok(all.into_iter().map(|(ordinal, bits)| (Ordinal(ordinal), Sensitivity(bits))).collect())
    }

    /// Messages and bytes by day and source, the newest day first.
    pub async fn sizes_by_day(
        &self,
        domain: &DomainName,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<DaySize>, StoreError> {
        let rows = sqlx::query_as::<_, (i64, String, i64, i64, i64, i64)>(
            "SELECT at / 86400000, source, COUNT(*), CAST(SUM(bytes) AS BIGINT), \
             CAST(SUM(stored) AS BIGINT), CAST(SUM(expired) AS BIGINT) FROM journal_entry WHERE \
             domain = $1 AND at >= $2 AND at <= $3 GROUP BY at / 86400000, source ORDER BY 1 DESC, 2 LIMIT 10000",
        )
        .bind(domain.as_str())
        .bind(from.ms())
        .bind(to.ms())
        .fetch_all(self.0.catalog.db.readers())
        .await?;
        let size = |(day, source, messages, raw, stored, expired): (i64, String, i64, i64, i64, i64)| {
            Ok(DaySize {
                day: Timestamp(day * DAY_MS),
                source: source_name(&source)?,
                messages: unbig(messages),
                raw_bytes: unbig(raw),
                stored_bytes: unbig(stored),
                expired: unbig(expired),
            })
        };
        rows.into_iter().map(size).collect()
    }

    /// How many entries of a source came after a moment.
    pub async fn entries_since(
        &self,
        domain: &DomainName,
        source: &SourceName,
        since: Timestamp,
    ) -> Result<u64, StoreError> {
        let (n,) = sqlx::query_as::<_, (i64,)>(
            "SELECT COUNT(*) FROM journal_entry WHERE domain = $1 AND source = $2 AND at > $3",
        )
        .bind(domain.as_str())
        .bind(source.as_str())
        .bind(since.ms())
        .fetch_one(self.0.catalog.db.readers())
        .await?;
        Ok(unbig(n))
    }

    /// How a source does.
    pub async fn source_figures(&self, domain: &DomainName, source: &SourceName) -> Result<SourceFigures, StoreError> {
        let readers = self.0.catalog.db.readers();
        let (messages,) = sqlx::query_as::<_, (i64,)>(
            "SELECT COALESCE(MAX(n), 0) FROM counter WHERE domain = $1 AND source = $2 AND name = 'received'",
        )
        .bind(domain.as_str())
        .bind(source.as_str())
        .fetch_one(readers)
        .await?;
        let (set_aside,) = sqlx::query_as::<_, (i64,)>(
            "SELECT COUNT(*) FROM set_aside WHERE domain = $1 AND source = $2 AND resolved = 0",
        )
        .bind(domain.as_str())
        .bind(source.as_str())
        .fetch_one(readers)
        .await?;
        let unmapped = sqlx::query_as::<_, (String, i64)>(
            "SELECT place, n FROM unmapped_field WHERE domain = $1 AND source = $2 ORDER BY n DESC, place LIMIT $3",
        )
        .bind(domain.as_str())
        .bind(source.as_str())
        .bind(UNMAPPED_SHOWN)
        .fetch_all(readers)
        .await?;
        Ok(SourceFigures {
            messages: unbig(messages),
            last: self.last_entry(domain, source).await?,
            set_aside: unbig(set_aside),
            unmapped: unmapped.into_iter().map(|(place, n)| (place, unbig(n))).collect(),
        })
    }

    /// When a source's newest entry came.
    pub async fn last_entry(&self, domain: &DomainName, source: &SourceName) -> Result<Option<Timestamp>, StoreError> {
        let row = sqlx::query_as::<_, (i64,)>(
            "SELECT at FROM journal_entry WHERE domain = $1 AND source = $2 ORDER BY at DESC LIMIT 1",
        )
        .bind(domain.as_str())
        .bind(source.as_str())
        .fetch_optional(self.0.catalog.db.readers())
        .await?;
        Ok(row.map(|(at,)| Timestamp(at)))
    }
}

fn entry_row(row: &AnyRow) -> Result<EntryRow, StoreError> {
    Ok(EntryRow {
        index: unbig(row.try_get(0)?),
        source: source_name(row.try_get(1)?)?,
        at: Timestamp(row.try_get(2)?),
        kind: row.try_get(3)?,
        bytes: unbig(row.try_get(4)?),
        stored: unbig(row.try_get(5)?),
        set_aside: unbig(row.try_get(6)?),
        forwarded: unbig(row.try_get(7)?),
        expired: row.try_get::<i64, _>(8)? != 0,
        shadow: row.try_get::<i64, _>(9)? != 0,
    })
}
