//! A permit as a condition in SQL: what it does not cover is not counted, sorted, paged or followed.
//!
//! Small sets of patients stand in the statement; large ones are asked through a function of the connection.

use std::sync::Arc;

use base::{DomainName, Layer, Ordinal, PatientSet, Permit, Sensitivity};
use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::dict::Dict;
use super::sql::Sql;

/// The patients of the search that a connection runs now.
pub(super) type Patients = Arc<Mutex<PatientSet>>;

/// Registers `covered(ordinal)`.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<Patients> {
    let patients: Patients = Arc::default();
    let shared = patients.clone();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("covered", 1, flags, move |context| {
        let ordinal: u32 = context.get(0)?;
        Ok(shared.lock().contains(Ordinal(ordinal)))
    })?;
    Ok(patients)
}

/// Ordinals that may stand in the statement itself.
const INLINE_MAX: u64 = 16;

/// What a permit lets a search see in silver.
#[derive(Debug, Clone)]
pub(crate) struct Cover {
    kinds: Vec<String>,
    patients: PatientSet,
    sensitivity: Sensitivity,
}

impl Cover {
    /// `None` when the permit is for another domain or layer.
    pub fn of<R>(permit: &Permit<R>, domain: &DomainName) -> Option<Cover> {
        let grant = permit.grant();
        (grant.domain == *domain && grant.layer == Layer::Silver).then(|| Cover {
            kinds: grant.kinds.clone(),
            patients: grant.patients.clone(),
            sensitivity: grant.sensitivity,
        })
    }

    /// What is within these, too.
    pub fn within(self, patients: &PatientSet, sensitivity: Sensitivity) -> Cover {
        let sensitivity = Sensitivity(self.sensitivity.0 & sensitivity.0);
        Cover { patients: self.patients.intersect(patients), sensitivity, ..self }
    }

    pub fn patients(&self) -> &PatientSet {
        &self.patients
    }

    pub fn kind(&self, rtype: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == rtype)
    }

    /// ` AND ...` on the row of `res` under this alias: kind, patient and sensitivity.
    pub(super) fn condition(&self, alias: &str, dict: &Dict, sql: &mut Sql) {
        if !self.kinds.is_empty() {
            let known = self.kinds.iter().filter_map(|kind| dict.rtype(kind));
            sql.push(&format!(" AND {alias}.rtype")).list(" IN ", known);
        }
        sql.push(&format!(" AND {alias}.sens & ")).bind(i64::from(!self.sensitivity.0)).push(" = 0");
        match &self.patients {
            PatientSet::All => {}
            PatientSet::None => {
                sql.push(&format!(" AND {alias}.ordinal = 0"));
            }
            PatientSet::Only(set) if set.len() <= INLINE_MAX => {
                let all = std::iter::once(0).chain(set.iter().map(i64::from));
                sql.push(&format!(" AND {alias}.ordinal")).list(" IN ", all);
            }
            PatientSet::AllBut(set) if set.len() <= INLINE_MAX => {
                // 0 is "no patient", which a set does not speak of.
                let all = set.iter().filter(|n| *n != 0).map(i64::from);
                sql.push(&format!(" AND {alias}.ordinal")).list(" NOT IN ", all);
            }
            PatientSet::Only(_) | PatientSet::AllBut(_) => {
                sql.push(&format!(" AND ({alias}.ordinal = 0 OR covered({alias}.ordinal))"));
            }
        }
    }
}
