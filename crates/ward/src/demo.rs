//! `ward demo`: a whole mesh, fed by a synthetic hospital through every door, and a summary a person understands.

mod care;
mod erasure;
mod families;

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use base::PrincipalId;
use hyper::Method;
use serde_json::Value;
use synth::{Door, Expected, Hospital, Options};
use tokio::sync::oneshot;

use crate::cli::{Cli, Demo};
use crate::commands::client::Client;
use crate::commands::init::{self, Ports};
use crate::commands::{Failure, Result, audit, flow, progress, say, serve, surroundings};
use crate::config::Config;
use crate::node::{Addresses, build};
use crate::wire::{HttpsClient, MllpClient, WireError, ack_code};

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Failure::Said(error.to_string())
    }
}

/// How the feed went.
#[derive(Debug, Default)]
struct Fed {
    sent: usize,
    accepted: usize,
    refused: usize,
    /// Answers that are not what the hospital expects.
    surprises: Vec<String>,
}

impl Fed {
    fn join(&mut self, other: Fed) {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.surprises.extend(other.surprises);
    }
}

pub async fn run(cli: &Cli, demo: &Demo) -> Result {
    begin_anew(&demo.folder)?;
    init::write(&demo.folder, "demo", free_ports())?;
    let config = Config::load(&demo.folder).map_err(Failure::Findings)?;
    let socket = config.socket();
    progress("starting a node with three domains: ehr, laboratory, research");
    let node = build(config, surroundings()?).await?;
    let addresses = node.addresses()?;
    let doors = node.doors.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(node.run_until(async move {
        let _ = stopped.await;
    }));
    let result = show(cli, demo, &addresses, &doors, &Client::new(&socket)).await;
    if result.is_ok() && !demo.once {
        say(&how_to_go_on(demo, &addresses));
        serve::shutdown().await;
    }
    let _ = stop.send(());
    let _ = running.await;
    result
}

/// The demo's folder is begun anew; a folder that is something else is left alone.
fn begin_anew(folder: &Path) -> Result {
    if !folder.exists() {
        return Ok(());
    }
    let is_demo = std::fs::read_to_string(folder.join("mesh.toml")).is_ok_and(|text| text.contains("name = \"demo\""));
    if !is_demo {
        return Err(Failure::said(format!(
            "{} is not a demo's folder: choose another with --folder",
            folder.display()
        )));
    }
    Ok(std::fs::remove_dir_all(folder)?)
}

/// 8443 and the two after it when they are free, else whatever is.
fn free_ports() -> Ports {
    let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    if (8443..8446).all(free) { Ports::from(8443) } else { Ports::ANY }
}

async fn show(cli: &Cli, demo: &Demo, addresses: &Addresses, doors: &edge::Doors, client: &Client) -> Result {
    let options = Options { seed: demo.seed, patients: demo.patients, ..Options::default() };
    let hospital = Hospital::generate(&options);
    progress(&format!(
        "a synthetic hospital: {} patients, {} messages and bundles",
        demo.patients,
        hospital.feed.len()
    ));

    let start = Instant::now();
    let fed = feed(&hospital, options.today, addresses, &demo.folder, client).await?;
    let in_seconds = start.elapsed().as_secs_f64();
    progress("waiting until everything is refined into FHIR");
    for (name, parts) in &doors.domains {
        let size = parts.intake.journal().log().size();
        let _ = doors.silver.applied(name).wait_for(|applied| *applied >= size).await;
    }
    let all_seconds = start.elapsed().as_secs_f64();

    progress("building the data products");
    let mut products = Vec::new();
    for (domain, product, engineer) in
        [("ehr", "patients", "eng-ehr"), ("ehr", "encounters", "eng-ehr"), ("laboratory", "labs", "eng-lab")]
    {
        let token = token(client, engineer).await?;
        let path = format!("/admin/products/{domain}/{product}/build");
        let built = client.post(&path, Some(&token), &Value::Null).await?;
        products.push((format!("{domain}.{product}"), built["rows"].as_u64().unwrap_or_default()));
    }

    let status = client.get("/admin/status", None).await?;
    say("");
    say(&format!(
        "IN      {} sent over MLLP and FHIR in {in_seconds:.1} s; {} durable before they were acknowledged, {} refused at the door",
        fed.sent, fed.accepted, fed.refused
    ));
    say(&format!("        all refined after {all_seconds:.1} s"));
    summary(&status);
    set_aside(&hospital, client).await?;
    families::account(&status);
    for (name, rows) in &products {
        say(&format!("GOLD    {name}: {rows} rows in encrypted Parquet"));
    }
    check_truth(&hospital, &fed)?;

    let patient = who_is_who(addresses, &demo.folder, client, &hospital).await?;
    one_query_four_ways(addresses, &demo.folder, client).await?;
    who_saw(client, &patient).await?;
    care::break_the_glass(addresses, &demo.folder, client, &hospital).await?;
    care::pack_a_ward(addresses, &demo.folder, client).await?;
    trace(client, &patient).await?;
    let other = hospital.patients.get(1).map(|p| p.mrn.clone()).unwrap_or_default();
    erasure::show(addresses, &demo.folder, client, &other).await?;
    say("");
    drill(&demo.folder).await?;
    for log in ["audit", "control", "journal-ehr", "journal-laboratory"] {
        let folder = demo.folder.join("data/logs").join(log);
        say(&format!("PROOF   {}", audit::verify_log(&folder, cli.json)?));
    }
    Ok(())
}

async fn token(client: &Client, principal: &str) -> Result<String> {
    let principal = PrincipalId::parse(principal).map_err(|error| Failure::said(error.to_string()))?;
    Ok(client.token(&principal, None).await?)
}

/// Every item through its real door: both feeds at once, each in its order, the bedside after them.
async fn feed(
    hospital: &Hospital,
    today: base::Timestamp,
    addresses: &Addresses,
    folder: &Path,
    client: &Client,
) -> Result<Fed> {
    let by_source = |source: &str| {
        addresses
            .mllp
            .iter()
            .find(|(_, name, _)| name.as_str() == source)
            .map(|(_, _, address)| *address)
            .ok_or_else(|| Failure::said(format!("no listener for {source}")))
    };
    let (registration, laboratory) = (by_source("adt-main")?, by_source("lab-main")?);
    let (adt, lab) = tokio::join!(
        send_mllp(hospital, Door::Adt, registration, "ADT"),
        send_mllp(hospital, Door::Lab, laboratory, "laboratory")
    );
    let mut fed = adt?;
    fed.join(lab?);
    fed.join(families::send(today, registration, laboratory).await?);
    fed.join(send_bedside(hospital, addresses, folder, client).await?);
    Ok(fed)
}

async fn send_mllp(hospital: &Hospital, door: Door, address: std::net::SocketAddr, name: &str) -> Result<Fed> {
    let items: Vec<_> = hospital.feed.iter().filter(|item| item.door == door).collect();
    let mut connection = MllpClient::connect(address).await?;
    let mut fed = Fed::default();
    for (n, item) in items.iter().enumerate() {
        let code = ack_code(&connection.send(&item.bytes).await?);
        let accepted = matches!(code.as_str(), "AA" | "CA");
        fed.sent += 1;
        fed.accepted += usize::from(accepted);
        fed.refused += usize::from(!accepted);
        if accepted == (item.expected == Expected::Refused) {
            fed.surprises.push(format!("{} was answered {code}", item.control_id));
        }
        if (n + 1) % items.len().div_ceil(5).max(1) == 0 || n + 1 == items.len() {
            progress(&format!("  {name} over MLLP: {} of {}", n + 1, items.len()));
        }
    }
    Ok(fed)
}

async fn send_bedside(hospital: &Hospital, addresses: &Addresses, folder: &Path, client: &Client) -> Result<Fed> {
    let token = token(client, "bedside-gateway").await?;
    let items: Vec<_> = hospital.feed.iter().filter(|item| item.door == Door::Bedside).collect();
    let mut https = HttpsClient::connect(addresses.http, &folder.join("tls/ca.pem")).await?;
    let mut fed = Fed::default();
    for (n, item) in items.iter().enumerate() {
        let headers = [("content-type", "application/fhir+json"), ("idempotency-key", item.control_id.as_str())];
        let answer = https.call(Method::POST, "/fhir/ehr", Some(&token), &headers, item.bytes.clone()).await?;
        fed.sent += 1;
        if answer.status.is_success() {
            fed.accepted += 1;
        } else {
            fed.refused += 1;
            fed.surprises.push(format!("{} was answered {}: {}", item.control_id, answer.status, answer.text()));
        }
        if (n + 1) % items.len().div_ceil(4).max(1) == 0 || n + 1 == items.len() {
            progress(&format!("  bedside over FHIR: {} of {}", n + 1, items.len()));
        }
    }
    Ok(fed)
}

fn summary(status: &Value) {
    for domain in status["domains"].as_array().into_iter().flatten() {
        let name = domain["domain"].as_str().unwrap_or_default();
        let types: Vec<String> = domain["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|row| format!("{} {}", row["living"], row["type"].as_str().unwrap_or_default()))
            .collect();
        if types.is_empty() {
            continue;
        }
        say(&format!("SILVER  {name}: {} journal entries → {}", domain["journal_entries"], types.join(", ")));
        let of = |counter: &str| -> u64 {
            let counts = domain["counts"].as_array().into_iter().flatten();
            counts.filter(|row| row["counter"].as_str() == Some(counter)).filter_map(|row| row["n"].as_u64()).sum()
        };
        let (mapped, kept, unmapped) = (of("fields-mapped"), of("fields-kept"), of("fields-unmapped"));
        if mapped > 0 {
            say(&format!(
                "        HL7 v2 fields: {mapped} mapped, {kept} kept on purpose, {unmapped} not mapped yet (raw is kept)"
            ));
        }
    }
}

async fn set_aside(hospital: &Hospital, client: &Client) -> Result {
    let mut shown = 0;
    let mut total = 0;
    for domain in ["ehr", "laboratory"] {
        let answer = client.get(&format!("/admin/set-aside/{domain}"), None).await?;
        for aside in answer["set_aside"].as_array().into_iter().flatten() {
            total += 1;
            if shown < 3 {
                shown += 1;
                say(&format!("ASIDE   journal-{domain}/{} {}", aside["index"], flow::aside_line(aside)));
            }
        }
    }
    let expected: usize = hospital.truth.set_aside.values().sum();
    say(&format!(
        "        {total} units set aside, {expected} planted by the hospital; the rest of their messages went on"
    ));
    Ok(())
}

fn check_truth(hospital: &Hospital, fed: &Fed) -> Result {
    let truth = &hospital.truth;
    say(&format!(
        "DIRT    {} resends recognised, {} reused control ids told apart, {} test messages refused, {} impossible dates, {} unknown codes kept",
        truth.resent, truth.reused_control_ids, truth.test_messages, truth.wrong_dates, truth.unknown_codes
    ));
    if let Some(surprise) = fed.surprises.first() {
        return Err(Failure::said(format!(
            "{} answers were not as expected; the first: {surprise}",
            fed.surprises.len()
        )));
    }
    Ok(())
}

/// The physician finds a patient by record number, over FHIR.
async fn who_is_who(addresses: &Addresses, folder: &Path, client: &Client, hospital: &Hospital) -> Result<String> {
    let token = token(client, "dr-lee").await?;
    let mut https = HttpsClient::connect(addresses.http, &folder.join("tls/ca.pem")).await?;
    let mrn = hospital.patients.first().map(|p| p.mrn.clone()).unwrap_or_default();
    let path = format!("/fhir/ehr/Patient?identifier={}%7C{mrn}", synth::MRN_SYSTEM);
    let answer = https.get(&path, &token).await?;
    let bundle = answer.json();
    let patient = &bundle["entry"][0]["resource"];
    let id =
        patient["id"].as_str().ok_or_else(|| Failure::said(format!("the patient was not found: {}", answer.text())))?;
    let read = https.get(&format!("/fhir/ehr/Patient/{id}"), &token).await?;
    let vitals = https.get(&format!("/fhir/ehr/Observation?patient={id}&_count=50"), &token).await?.json();
    say("");
    say(&format!(
        "FHIR    dr-lee reads Patient/{id}: {} ({}), version {}, {} observations",
        patient["name"][0]["family"].as_str().unwrap_or("-"),
        patient["birthDate"].as_str().unwrap_or("-"),
        read.headers.get("etag").and_then(|v| v.to_str().ok()).unwrap_or("-"),
        vitals["entry"].as_array().map_or(0, Vec::len)
    ));
    Ok(id.to_owned())
}

const QUERY: &str = "SELECT mrn, family, gender, birth_date, city, postal_code FROM ehr.patients ORDER BY id LIMIT 3";

async fn one_query_four_ways(addresses: &Addresses, folder: &Path, client: &Client) -> Result {
    say("");
    say(&format!("SQL     {QUERY}"));
    let mut https = HttpsClient::connect(addresses.http, &folder.join("tls/ca.pem")).await?;
    for (principal, who) in [("dr-lee", "physician"), ("ana-analyst", "analyst"), ("rio-researcher", "researcher")] {
        let token = token(client, principal).await?;
        let headers = [("content-type", "application/sql"), ("accept", "text/csv")];
        let answer = https.call(Method::POST, "/sql", Some(&token), &headers, QUERY).await?;
        say(&format!("        as {principal} ({who}): {}", answer.status));
        for line in answer.text().lines() {
            say(&format!("          {line}"));
        }
        let masked = answer.headers.get("x-ward-masked").and_then(|v| v.to_str().ok()).unwrap_or("[]");
        let masked: Vec<Value> = serde_json::from_str(masked).unwrap_or_default();
        if let Some(first) = masked.first() {
            let columns: Vec<_> = masked.iter().filter_map(|m| m["column"].as_str()).collect();
            say(&format!(
                "          masked: {} — {}: {}",
                columns.join(", "),
                first["policy"].as_str().unwrap_or_default(),
                first["reason"].as_str().unwrap_or_default()
            ));
        }
    }
    let body = serde_json::json!({ "principal": "dr-lee", "without_purpose": true, "minutes": 5 });
    let token = client.post("/admin/token", None, &body).await?;
    let headers = [("content-type", "application/sql"), ("accept", "text/csv")];
    let answer = https.call(Method::POST, "/sql", token["token"].as_str(), &headers, QUERY).await?;
    say(&format!(
        "        as dr-lee without a purpose: {} {}",
        answer.status,
        answer.json()["error"].as_str().unwrap_or_default()
    ));
    Ok(())
}

async fn who_saw(client: &Client, patient: &str) -> Result {
    let token = token(client, "privacy-osei").await?;
    let answer = client.get(&format!("/admin/audit/who-saw/ehr/{patient}"), Some(&token)).await?;
    let lines = answer["accesses"].as_array().cloned().unwrap_or_default();
    say("");
    say(&format!("AUDIT   who saw Patient/{patient}: {} accesses; the last five", lines.len()));
    for line in lines.iter().rev().take(5).rev() {
        say(&format!("          {}", audit::one_line(line)));
    }
    Ok(())
}

/// A backup while the node serves, and a restore drill of it: each a command of its own, as an operator runs them.
async fn drill(folder: &Path) -> Result {
    progress("a backup, and a restore drill");
    let safe = std::path::absolute(folder)?.join("backups");
    std::fs::create_dir_all(&safe)?;
    let (data, keys) = (safe.join("data"), safe.join("keys"));
    let taken = command(folder, ["backup".as_ref(), data.as_os_str(), "--keys-to".as_ref(), keys.as_os_str()]).await?;
    let arguments: [&OsStr; 6] = [
        "verify-restore".as_ref(),
        data.as_os_str(),
        "--keys-from".as_ref(),
        keys.as_os_str(),
        "--report".as_ref(),
        safe.as_os_str(),
    ];
    let report = command(folder, arguments).await?;
    let seconds = |ms: &Value| ms.as_f64().unwrap_or_default() / 1000.0;
    let checks = report["checks"].as_array().map_or(0, Vec::len);
    say(&format!(
        "DRILL   backup of {:.1} MB while serving in {:.1} s; restored, started and rebuilt in {:.1} s, all {checks} checks passed (laws 4 and 11, silver, products)",
        taken["total_bytes"].as_f64().unwrap_or_default() / 1e6,
        seconds(&taken["took_ms"]),
        seconds(&report["rto_ms"]),
    ));
    Ok(())
}

/// A command of this program on the demo's mesh; its JSON.
async fn command<'a>(folder: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Value> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    let output = command.arg("--json").arg("-C").arg(folder).args(arguments).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = || Failure::said(format!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    if output.status.success() { serde_json::from_str(&said).map_err(|_| why()) } else { Err(why()) }
}

/// From a row of the product to the message it came from.
async fn trace(client: &Client, patient: &str) -> Result {
    let origin = client.get(&format!("/admin/lineage/ehr/Patient/{patient}"), None).await?;
    let versions = origin["versions"].as_array().cloned().unwrap_or_default();
    say("");
    say(&format!("LINEAGE ehr.patients row {patient} is Patient/{patient}, {} version(s)", versions.len()));
    let Some(position) = versions.first().and_then(|v| v["positions"][0].as_u64()) else { return Ok(()) };
    let entry = client.get(&format!("/admin/journal/ehr/{position}"), None).await?;
    say(&format!(
        "          its newest version came from journal-ehr/{position}: {} from {}, {} bytes, trace {}",
        entry["kind"].as_str().unwrap_or("-"),
        entry["source"].as_str().unwrap_or("-"),
        entry["bytes"],
        entry["trace"].as_str().unwrap_or("-")
    ));
    Ok(())
}

fn how_to_go_on(demo: &Demo, addresses: &Addresses) -> String {
    let folder = demo.folder.display();
    format!(
        "\nThe mesh stays up. Open https://{}/fhir/ehr/metadata (development certificate), or:\n\
         \x20 ward -C {folder} query --as ana-analyst \"SELECT status, count(*) FROM laboratory.labs GROUP BY status\"\n\
         \x20 ward -C {folder} quarantine list\n\
         \x20 ward -C {folder} audit show --as privacy-osei\n\
         \x20 curl --cacert {folder}/tls/ca.pem -H \"Authorization: Bearer $(ward -C {folder} token dr-lee)\" \
         \"https://{}/fhir/ehr/Patient?_count=2\"\n\
         Ctrl-C stops it.",
        addresses.http, addresses.http
    )
}
