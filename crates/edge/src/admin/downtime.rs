//! Downtime packs over the admin API: make one, print a card, hand back the record of openings.
//!
//! A pack is a disclosure of every patient in it: made under permits to export, recorded before it leaves. The code is
//! answered to those only who may make the pack. What the node keeps of it is behind [`DowntimeDesk`].

use ::downtime::{Code, Gathered, Header, Keys, Opening, Reader};
use base64::Engine as _;
use gate::{Caller, Origin, Outcome, Release};
use roaring::RoaringBitmap;

use super::break_glass::body_of;
use super::*;
use crate::doors::OperatorError;

/// Days that one card covers.
const CARD_DAYS_MAX: u32 = 31;
/// A location's name; longer is none.
const LOCATION_BYTES_MAX: usize = 128;
/// The kind of [`Layer::Governance`] that openings are handed back as.
const OPENINGS: &str = "downtime";
const DAY_MS: i64 = 86_400_000;

/// What the node keeps of packs: in the control log, sealed. `ward` implements it.
#[async_trait::async_trait]
pub trait DowntimeDesk: Send + Sync {
    /// The code of a ward and a day, derived from the node's secret; the same each time.
    fn code(&self, domain: &DomainName, location: &str, day: &str) -> Code;
    /// How long a pack is good for.
    fn life_ms(&self) -> i64;
    /// When this returns the pack's header and patients survive a crash.
    async fn made(&self, header: &Header, patients: &[(DomainName, RoaringBitmap)]) -> Result<(), OperatorError>;
    /// A pack that was made here.
    async fn pack(&self, pack: &str) -> Result<Option<Made>, OperatorError>;
    /// When this returns it survives a crash that this opening is on record.
    async fn opened(&self, opening: &Opening) -> Result<(), OperatorError>;
}

/// A pack as the node remembers it.
pub struct Made {
    pub header: Header,
    pub patients: Vec<(DomainName, RoaringBitmap)>,
    /// What names the openings on record.
    pub opened: Vec<String>,
}

/// A pack on its way out.
pub struct Packed {
    pub header: Header,
    pub file: Vec<u8>,
    pub code: Code,
    pub patients: usize,
}

pub fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/admin/downtime/{domain}/pack", post(pack))
        .route("/admin/downtime/{domain}/card", post(card))
        .route("/admin/downtime/{domain}/openings", post(openings))
}

fn check_location(location: &str) -> Result<(), AdminError> {
    let printable = location.chars().all(|c| !c.is_control());
    if location.is_empty() || location.len() > LOCATION_BYTES_MAX || !printable {
        let text = format!("name a location: a point of care or a Location, at most {LOCATION_BYTES_MAX} bytes");
        return Err(AdminError(StatusCode::BAD_REQUEST, text));
    }
    Ok(())
}

/// The UTC day of a time, `YYYY-MM-DD`.
fn day_of(at: base::Timestamp) -> String {
    at.to_string()[..10].to_owned()
}

fn export(domain: &DomainName, origin: &Origin) -> gate::Ask {
    gate::Ask::new(Action::Export, domain, Layer::Silver, origin).kinds(::downtime::KINDS)
}

/// Gathers, seals, keeps, records: the pack, and the release that opens it. For the admin API and for the node itself.
pub async fn make_pack(
    doors: &Doors,
    caller: &Caller,
    origin: &Origin,
    domain: &DomainName,
    location: &str,
) -> Result<(Held<Packed>, Release), AdminError> {
    check_location(location)?;
    let own = doors.gate.permit::<Read>(caller, export(domain, origin)).await?;
    let mut permits = vec![(domain.clone(), own)];
    for other in doors.domains.keys().filter(|other| *other != domain) {
        let ask = export(other, origin);
        if doors.gate.would_permit::<Read>(caller, &ask) {
            permits.push((other.clone(), doors.gate.permit::<Read>(caller, ask).await?));
        }
    }
    let readers: Vec<Reader<'_>> = permits.iter().map(|(domain, permit)| Reader { domain, permit }).collect();
    let gathered = ::downtime::gather(&doors.silver, &doors.limits, &readers, location)
        .await
        .map_err(|error| AdminError::broken("the pack could not be gathered", error))?;
    let Gathered { ward, rows, patients } = gathered;
    let now = doors.clock.now();
    let expires = now.plus_ms(doors.downtime.life_ms());
    let header = Header::new(domain, location, now, expires, &day_of(now), &*doors.entropy);
    let code = doors.downtime.code(domain, location, &header.day);
    let count = ward.patients.len();
    let file = sealed(doors, &header, &code, ward).await?;
    doors
        .downtime
        .made(&header, &patients)
        .await
        .map_err(|error| AdminError::broken("the pack could not be written down", error))?;
    let packed = Packed { file, code, patients: count, header };
    let mut access = Access::of(&permits[0].1, Action::Export, origin)
        .what("downtime pack")
        .rows(rows)
        .sent_to(format!("the staff of {location}"), "an encrypted file for times without the system");
    access.job = Some(format!("downtime/{}", packed.header.pack));
    let mut held = Held::under(&permits[0].1, packed);
    for (_, permit) in &permits[1..] {
        access = access.and(permit);
        held = held.and(permit);
    }
    for (domain, patients) in &patients {
        access = access.patients(domain, patients);
    }
    let release = doors.gate.release(caller, access).await?;
    Ok((held, release))
}

/// Argon2id and the packing take a while: not on the threads that answer others.
async fn sealed(doors: &Doors, header: &Header, code: &Code, ward: ::downtime::Ward) -> Result<Vec<u8>, AdminError> {
    let (header, code, entropy) = (header.clone(), code.clone(), doors.entropy.clone());
    tokio::task::spawn_blocking(move || ::downtime::seal(&header, &code, &ward, &*entropy))
        .await
        .map_err(|error| AdminError::broken("the pack could not be sealed", error))?
        .map_err(|error| AdminError(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackRequest {
    location: String,
}

async fn pack(State(doors): State<Arc<Doors>>, Path(name): Path<String>, Admin(call): Admin, body: Bytes) -> Answer {
    let name = domain(&doors, &name)?;
    let request: PackRequest = body_of(&body, r#"{"location"}"#)?;
    let (held, release) = make_pack(&doors, &call.caller, &call.origin, name, &request.location).await?;
    let draft = held.map(|packed| {
        let text = json!({
            "header": packed.header,
            "patients": packed.patients,
            "code": packed.code.printed().as_str(),
            "file": base64::engine::general_purpose::STANDARD.encode(&packed.file),
        });
        json_draft(&text)
    });
    opened(draft, release)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CardRequest {
    location: String,
    days: u32,
}

/// The codes of the coming days, for whoever may make the packs.
async fn card(State(doors): State<Arc<Doors>>, Path(name): Path<String>, Admin(call): Admin, body: Bytes) -> Answer {
    let name = domain(&doors, &name)?;
    let request: CardRequest = body_of(&body, r#"{"location", "days"}"#)?;
    check_location(&request.location)?;
    if !(1..=CARD_DAYS_MAX).contains(&request.days) {
        return Err(AdminError(StatusCode::BAD_REQUEST, format!("a card is for 1 to {CARD_DAYS_MAX} days")));
    }
    let permit = doors.gate.permit::<Read>(&call.caller, export(name, &call.origin)).await?;
    let days = (0..i64::from(request.days)).map(|n| day_of(doors.clock.now().plus_ms(n * DAY_MS)));
    let codes: Vec<Value> = days
        .map(|day| json!({ "day": day, "code": doors.downtime.code(name, &request.location, &day).printed().as_str() }))
        .collect();
    let held =
        Held::under(&permit, json_draft(&json!({ "domain": name, "location": request.location, "codes": codes })));
    let access = Access::of(&permit, Action::Export, &call.origin).what("downtime card").rows(codes.len() as u64);
    release(&doors, &call, held, access).await
}

/// Takes over a pack's record of openings: each becomes an audit record of all its patients, once.
async fn openings(
    State(doors): State<Arc<Doors>>,
    Path(name): Path<String>,
    Admin(call): Admin,
    body: Bytes,
) -> Answer {
    let name = domain(&doors, &name)?;
    let permit = call.manage(&doors, Action::Manage, name, OPENINGS).await?;
    let bad = |text: &str| AdminError(StatusCode::BAD_REQUEST, text.to_owned());
    let text = std::str::from_utf8(&body).map_err(|_| bad("the record of openings is not UTF-8"))?;
    let first = text.lines().next().and_then(|line| serde_json::from_str::<Opening>(line).ok());
    let first = first.ok_or_else(|| bad("this is no record of openings"))?;
    let kept = |error| AdminError::broken("what was kept of packs cannot be read now", error);
    let made = doors.downtime.pack(&first.pack).await.map_err(kept)?.filter(|made| made.header.domain == *name);
    let made = made.ok_or_else(|| AdminError::not_found("downtime pack of this domain"))?;
    let all = verified(&doors, &made.header, text.to_owned()).await?;
    let new: Vec<&Opening> = all.iter().filter(|opening| !made.opened.contains(&opening.mac)).collect();
    for opening in &new {
        // The record first: an opening that is recorded twice after a crash is better than one that is not.
        let records = records_of(&doors, &call, &made, opening);
        doors.gate.audit().append(records).await.map_err(gate::NotReleased::from)?;
        doors.downtime.opened(opening).await.map_err(kept)?;
    }
    let value = json!({ "pack": made.header.pack, "openings": all.len(), "new": new.len() });
    let held = Held::under(&permit, json_draft(&value));
    let access = Access::of(&permit, Action::Manage, &call.origin).what("downtime openings").rows(all.len() as u64);
    release(&doors, &call, held, access).await
}

async fn verified(doors: &Doors, header: &Header, text: String) -> Result<Vec<Opening>, AdminError> {
    let code = doors.downtime.code(&header.domain, &header.location, &header.day);
    let header = header.clone();
    let verify = move || {
        let keys = Keys::of(&code, &header).map_err(|error| error.to_string())?;
        ::downtime::verify(&keys, &header.pack, &text).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(verify)
        .await
        .map_err(|error| AdminError::broken("the record of openings could not be checked", error))?
        .map_err(|text| AdminError(StatusCode::BAD_REQUEST, text))
}

/// One for each domain in the pack. Who opened it is their word: nobody was authenticated, and the record says so.
fn records_of(doors: &Doors, call: &Call, made: &Made, opening: &Opening) -> Vec<gate::AuditRecord> {
    let record = |(domain, patients): &(DomainName, RoaringBitmap)| {
        let who = PrincipalId::parse("downtime:stated").unwrap_or_else(|_| call.caller.principal().clone());
        let mut record = gate::AuditRecord::new(doors.clock.now(), who, domain.clone(), Layer::Silver, Outcome::Served);
        record.door = "downtime".to_owned();
        record.action = Action::Export.code().to_owned();
        record.what = format!(
            "downtime pack opened by `{}` at {} on {}, as stated there; handed in by {}",
            opening.by,
            base::Timestamp(opening.at_ms),
            opening.host,
            call.caller.principal()
        );
        record.kinds = ::downtime::KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        record.purpose = Some(Purpose::Treatment);
        record.recipient = Some(format!("the staff of {}", made.header.location));
        record.destination = Some(opening.host.clone());
        record.job = Some(format!("downtime/{}", made.header.pack));
        record.trace = Some(call.trace.trace_id);
        record.rows = patients.len();
        record.patients = patients.clone();
        record
    };
    made.patients.iter().map(record).collect()
}
