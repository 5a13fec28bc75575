//! Answers over all resource types at once: the permit for them, the parameters that they share, the bundle.

use axum::http::StatusCode;
use base::{DomainName, Layer, Ordinal, Permit, Read, Timestamp};
use fhir::definitions;
use fhir::json::{Object, Value};
use gate::{Access, Held};
use policy::Action;
use store::SearchPage;

use crate::doors::{Call, Doors};
use crate::fhir::read::value_of;
use crate::fhir::search::{entry, link_bound, links, open_link, pairs_text};
use crate::fhir::{Answer, FHIR_JSON, FhirError};
use crate::outgoing::{Draft, Outgoing};

/// One request over all types.
pub struct Wide<'a> {
    pub doors: &'a Doors,
    pub call: &'a Call,
    pub domain: &'a DomainName,
    /// Of the request, below the domain's base: for the links.
    pub path: String,
    /// For the audit record: no ids.
    pub what: String,
}

/// What such requests may ask for.
#[derive(Debug, Default)]
pub struct Asked {
    pub types: Vec<String>,
    pub since: Option<Timestamp>,
    pub start_ms: Option<i64>,
    pub end_ms: Option<i64>,
    pub count: Option<usize>,
    pub total: bool,
    pub cursor: Option<String>,
}

fn wrong(name: &str, wants: &str) -> FhirError {
    FhirError::new(StatusCode::BAD_REQUEST, "value", format!("{name} needs {wants}"))
}

impl Asked {
    /// Reads one parameter; which ones a request takes is its own matter.
    pub fn take(&mut self, name: &str, value: &str) -> Result<(), FhirError> {
        let moment = || fhir::time::parse(value).ok_or_else(|| wrong(name, "a date or a time"));
        match name {
            "_type" => {
                for rtype in value.split(',') {
                    if definitions::resource_type(rtype).is_none() {
                        return Err(wrong(name, "types of FHIR R4, separated by commas"));
                    }
                    self.types.push(rtype.to_owned());
                }
            }
            "_since" => {
                let instant = moment()?;
                if !instant.is_instant() {
                    return Err(wrong(name, "an instant, with seconds and a time zone"));
                }
                self.since = Some(Timestamp(instant.from_ms));
            }
            "start" => self.start_ms = Some(moment()?.from_ms),
            "end" => self.end_ms = Some(moment()?.to_ms),
            "_count" => {
                let count: usize = value.parse().map_err(|_| wrong(name, "a whole number above 0"))?;
                self.count = Some(count).filter(|count| *count > 0);
                if self.count.is_none() {
                    return Err(wrong(name, "a whole number above 0"));
                }
            }
            "_total" => match value {
                "none" => self.total = false,
                "accurate" | "estimate" => self.total = true,
                _ => return Err(wrong(name, "none, estimate or accurate")),
            },
            _ => self.cursor = Some(value.to_owned()),
        }
        Ok(())
    }
}

impl Wide<'_> {
    fn bound(&self) -> Vec<u8> {
        link_bound(self.call, self.domain, &self.path)
    }

    /// The parameters: as they were given, or as a page link carries them.
    pub fn open(&self, mut pairs: Vec<(String, String)>) -> Result<Vec<(String, String)>, FhirError> {
        pairs.retain(|(name, _)| name != "_format" && name != "_pretty");
        match pairs.as_slice() {
            [(name, link)] if name == "_cursor" => open_link(self.doors, &self.bound(), link),
            _ => Ok(pairs),
        }
    }

    /// One permit for all types that the caller may see, `root` among them. Policy is asked about each type by itself: a
    /// rule about one type, for or against, is a rule about it here too.
    pub async fn permit(
        &self,
        root: &str,
        about: Option<Ordinal>,
        types: &[String],
    ) -> Result<Permit<Read>, FhirError> {
        let others = definitions::resource_types().map(|kind| kind.name).filter(|name| {
            let wanted = types.is_empty() || types.iter().any(|asked| asked == name);
            wanted && *name != root && !definitions::is_server_owned(name)
        });
        // The root is asked for in any case, so that a refusal is one, on record, and no empty answer.
        let ask = self.call.ask(Action::Search, self.domain, Layer::Silver).kind(root).also(others);
        let ask = match about {
            Some(patient) => ask.patient(patient),
            None => ask,
        };
        Ok(self.doors.gate.permit::<Read>(&self.call.caller, ask).await?)
    }

    /// The page as a searchset, recorded and released.
    pub async fn answer(
        &self,
        permit: &Permit<Read>,
        page: SearchPage,
        pairs: &[(String, String)],
        asked: Vec<u32>,
    ) -> Answer {
        let mut values = Vec::with_capacity(page.resources.len());
        for resource in &page.resources {
            values.push(value_of(self.doors, permit, resource)?);
        }
        self.answer_with(permit, page, values, Vec::new(), pairs, asked).await
    }

    /// The same with the values of the page's resources, and of the included ones, as the permit shows them.
    pub async fn answer_with(
        &self,
        permit: &Permit<Read>,
        page: SearchPage,
        matches: Vec<Value>,
        includes: Vec<Value>,
        pairs: &[(String, String)],
        asked: Vec<u32>,
    ) -> Answer {
        let base = format!("{}/fhir/{}", self.doors.info.base_url, self.domain);
        let links = links(self.doors, &self.bound(), self.domain, &self.path, &|_| false, pairs, page.next.as_deref())?;
        let rows = page.resources.len() + page.included.len();
        let mut entries = Vec::with_capacity(rows);
        entries.extend(page.resources.iter().zip(matches).map(|(r, value)| entry(&base, "match", r, value)));
        entries.extend(page.included.iter().zip(includes).map(|(r, value)| entry(&base, "include", r, value)));
        let mut bundle = Object::default();
        bundle.insert("resourceType", "Bundle");
        bundle.insert("type", "searchset");
        if let Some(total) = page.total {
            bundle.insert("total", total);
        }
        bundle.insert("link", Value::Array(links));
        if !entries.is_empty() {
            bundle.insert("entry", Value::Array(entries));
        }
        let covered = |record: &u32| permit.grant().patients.contains(Ordinal(*record));
        let shown = page.resources.iter().chain(&page.included).map(|resource| resource.patient.0);
        let access = Access::of(permit, Action::Search, &self.call.origin)
            .what(self.what.as_str())
            .query(self.doors.gate.query_hash(pairs_text(pairs).as_bytes()))
            .rows(rows as u64)
            .patients(self.domain, shown.chain(asked.into_iter().filter(covered)));
        let body = fhir::json::to_vec(&Value::Object(bundle));
        let held = Held::under(permit, Draft::new(StatusCode::OK, FHIR_JSON, body));
        let release = self.doors.gate.release(&self.call.caller, access).await?;
        Outgoing::data(held, release).map_err(|_| FhirError::unavailable("the answer could not be released"))
    }
}
