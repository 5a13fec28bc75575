//! Retention: how long a class is kept, and which records of a domain may go. A record is kept as a whole, from the year
//! of its last entry on; it goes by a disposal, which two others approve (`rights`).

use std::collections::BTreeMap;

use base::DomainName;
use serde::Serialize;

use crate::estate::Records;
use crate::rights::{Rights, RightsError};

/// `clinical-6y` is kept through the sixth year after its own; a class that names no years has no duty.
pub fn years_of(class: &str) -> u16 {
    let years = class.rsplit('-').next().and_then(|last| last.strip_suffix('y'));
    years.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The records of a domain whose last entry is of one year.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct YearOfRecords {
    pub domain: DomainName,
    /// The domain's class now; a record whose keys are of a longer class stays until that is over.
    pub class: String,
    pub year: u16,
    pub records: u64,
    /// The last year through which they are kept.
    pub until: u16,
    /// The duty is over.
    pub due: bool,
    /// Of the records, those that a hold keeps.
    pub held: u64,
}

impl Rights {
    /// The records of a domain by the year of their last entry.
    pub async fn retention(
        &self,
        records: &dyn Records,
        domain: &DomainName,
    ) -> Result<Vec<YearOfRecords>, RightsError> {
        let class = records.class_of(domain);
        let mut years: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        let book = self.book();
        for record in records.by_year(domain).await? {
            let (all, held) = years.entry(record.year).or_default();
            *all += 1;
            *held += u64::from(book.hold_on(domain, Some(record.ordinal)).is_some());
        }
        let this_year = self.year();
        let row = |(year, (records, held)): (u16, (u64, u64))| {
            let until = year.saturating_add(years_of(&class));
            YearOfRecords {
                domain: domain.clone(),
                class: class.clone(),
                year,
                records,
                until,
                due: until < this_year,
                held,
            }
        };
        Ok(years.into_iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_says_how_long_it_is_kept() {
        for (class, years) in [("clinical-6y", 6), ("product", 0), ("index-17", 0), ("audit-10y", 10), ("6y", 6)] {
            assert_eq!(years_of(class), years, "{class}");
        }
    }
}
