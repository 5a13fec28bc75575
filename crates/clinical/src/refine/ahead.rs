//! Looking ahead: what the messages of a batch speak of is asked of silver for all of them at once, so that a unit costs
//! no round trip of its own. What is not foreseen here is asked when it is needed; nothing is decided here.

use std::collections::HashMap;

use base::LogicalId;
use store::StoreError;

use super::work::{Identifier, Work};
use crate::ids::IdMint;
use crate::v2::{Key, Mapped, Unit};

/// How deep "within" goes: a result within a report within a visit within a patient.
const DEPTH_MAX: usize = 4;

/// A message, and where it stands in the journal.
pub struct Ahead<'a> {
    pub index: u64,
    pub mapped: &'a Mapped,
}

type Places = HashMap<u32, LogicalId>;

/// Fills `work` with what the messages will look for.
pub async fn look_ahead(work: &mut Work<'_>, ids: &IdMint, messages: &[Ahead<'_>]) -> Result<(), StoreError> {
    let named = messages.iter().flat_map(|message| &message.mapped.named).flat_map(|named| &named.numbers);
    let mut wanted: Vec<Identifier> =
        named.map(|(rtype, system, value)| ((*rtype).to_owned(), system.clone(), value.clone())).collect();
    let mut places: Vec<Places> = vec![Places::new(); messages.len()];
    for _ in 0..DEPTH_MAX {
        for (message, places) in messages.iter().zip(&places) {
            let open = message.mapped.units.iter().filter(|unit| !places.contains_key(&unit.n));
            wanted.extend(open.flat_map(|unit| keys(message.mapped, unit, places)));
        }
        work.look_up(std::mem::take(&mut wanted)).await?;
        let mut is_news = false;
        for (message, places) in messages.iter().zip(&mut places) {
            for unit in &message.mapped.units {
                if !places.contains_key(&unit.n)
                    && let Some(id) = keys(message.mapped, unit, places).iter().find_map(|key| work.known(key))
                {
                    places.insert(unit.n, id.clone());
                    is_news = true;
                }
            }
        }
        if !is_news {
            break;
        }
    }
    // What is not known gets an id of its own, which silver is asked for as well: a replay mints it again.
    let mut minted = Vec::new();
    for (message, places) in messages.iter().zip(&places) {
        let fresh = message.mapped.units.iter().filter(|unit| !places.contains_key(&unit.n));
        minted.extend(fresh.map(|unit| (unit.draft.rtype.to_owned(), ids.mint(message.index, unit.n))));
    }
    work.prefetch(&minted).await
}

/// By what a unit is looked for, as far as its place is known.
fn keys(mapped: &Mapped, unit: &Unit, places: &Places) -> Vec<Identifier> {
    let rtype = unit.draft.rtype;
    match &unit.key {
        Key::Identifiers(keys) => {
            keys.iter().map(|(system, value)| (rtype.to_owned(), system.clone(), value.clone())).collect()
        }
        Key::Within { unit: parent, natural } => {
            let parent = mapped.units.iter().find(|unit| unit.n == *parent);
            let within = parent.and_then(|parent| {
                let reference = format!("{}/{}", parent.draft.rtype, places.get(&parent.n)?);
                Some((rtype.to_owned(), Key::WITHIN_SYSTEM.to_owned(), Key::within(&reference, natural)))
            });
            within.into_iter().collect()
        }
    }
}
