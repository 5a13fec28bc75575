//! A ward on paper: plain text, and HTML that prints one patient a page.

use base::Timestamp;

use crate::{Finding, Header, Sheet, Ward};

fn warning(header: &Header) -> String {
    format!(
        "Ward {} of {}: as of {}, {} patients. Not valid after {}. Destroy this copy when the system is back.",
        header.location,
        header.domain,
        Timestamp(header.made_ms),
        "{n}",
        Timestamp(header.expires_ms)
    )
}

/// Titles and lines of one sheet, in the order of use.
fn sections(sheet: &Sheet) -> Vec<(&'static str, Vec<(String, bool)>)> {
    let plain = |lines: &[String]| lines.iter().map(|line| (line.clone(), false)).collect::<Vec<_>>();
    let found = |lines: &[Finding]| lines.iter().map(|line| (finding(line), line.critical)).collect::<Vec<_>>();
    vec![
        ("Allergies", plain(&sheet.allergies)),
        ("Medications", plain(&sheet.medications)),
        ("Problems", plain(&sheet.problems)),
        ("Vital signs", found(&sheet.vitals)),
        ("Results", found(&sheet.results)),
    ]
}

fn finding(finding: &Finding) -> String {
    let flag = if finding.flag.is_empty() { String::new() } else { format!(" [{}]", finding.flag) };
    let critical = if finding.critical { "CRITICAL " } else { "" };
    format!("{critical}{}: {}{flag}, {}", finding.what, finding.value, finding.at)
}

fn person(sheet: &Sheet) -> String {
    let known = [
        ("born ", sheet.birth_date.as_str()),
        ("", sheet.gender.as_str()),
        ("record ", &sheet.identifiers.join(", ")),
        ("since ", sheet.since.as_str()),
        ("attending ", &sheet.attending.join(", ")),
    ];
    let known: Vec<String> =
        known.iter().filter(|(_, text)| !text.is_empty()).map(|(label, text)| format!("{label}{text}")).collect();
    known.join("; ")
}

fn left_out(sheet: &Sheet) -> Option<String> {
    (sheet.left_out > 0).then(|| format!("{} older lines are not in this pack", sheet.left_out))
}

/// For a terminal or a line printer.
pub fn text(header: &Header, ward: &Ward) -> String {
    let mut out = warning(header).replace("{n}", &ward.patients.len().to_string());
    out.push('\n');
    for sheet in &ward.patients {
        out.push_str(&format!("\n== {} — {}\n   {}\n", sheet.place, sheet.name, person(sheet)));
        for (title, lines) in sections(sheet) {
            if lines.is_empty() {
                // What is not recorded is not the same as what is not there.
                out.push_str(&format!("   {title}: none on record\n"));
                continue;
            }
            out.push_str(&format!("   {title}\n"));
            for (line, critical) in lines {
                out.push_str(&format!("   {} {line}\n", if critical { "!!" } else { " -" }));
            }
        }
        out.extend(left_out(sheet).map(|line| format!("   {line}\n")));
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "body{font:11pt sans-serif}h2{page-break-before:always}h2:first-of-type{page-break-before:avoid}\
                     li.c{font-weight:bold}h3{margin:.6em 0 .2em}ul{margin:0}";

/// One file without scripts, images or links, for a browser's print.
pub fn html(header: &Header, ward: &Ward) -> String {
    let title = warning(header).replace("{n}", &ward.patients.len().to_string());
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Downtime pack</title><style>{STYLE}</style><p>{}</p>",
        escape(&title)
    );
    for sheet in &ward.patients {
        out.push_str(&format!(
            "<h2>{} — {}</h2><p>{}</p>",
            escape(&sheet.place),
            escape(&sheet.name),
            escape(&person(sheet))
        ));
        for (title, lines) in sections(sheet) {
            out.push_str(&format!("<h3>{title}</h3><ul>"));
            if lines.is_empty() {
                out.push_str("<li>none on record</li>");
            }
            for (line, critical) in lines {
                let class = if critical { " class=\"c\"" } else { "" };
                out.push_str(&format!("<li{class}>{}</li>", escape(&line)));
            }
            out.push_str("</ul>");
        }
        out.extend(left_out(sheet).map(|line| format!("<p>{line}</p>")));
    }
    out.push_str("</html>\n");
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn paper_shows_what_is_critical_first_and_says_what_is_not_on_record() {
        let header = Header {
            pack: "00".into(),
            domain: base::DomainName::parse("ehr").unwrap(),
            location: "3W".into(),
            made_ms: 1_790_000_000_000,
            expires_ms: 1_790_086_400_000,
            day: "2026-09-21".into(),
            salt: String::new(),
        };
        let critical = Finding {
            what: "Potassium".into(),
            value: "6.9 mmol/L".into(),
            at: "2026-09-21T08:45".into(),
            flag: "HH".into(),
            critical: true,
        };
        let sheet = Sheet {
            name: "Rivera, Ana <b>".into(),
            birth_date: "1984-03-12".into(),
            place: "3W, room 301, bed 1".into(),
            identifiers: vec!["100234".into()],
            allergies: vec!["Penicillin (HIGH RISK)".into()],
            results: vec![critical],
            left_out: 2,
            ..Sheet::default()
        };
        let ward = Ward { patients: vec![sheet] };
        expect![[r#"
            Ward 3W of ehr: as of 2026-09-21T14:13:20.000Z, 1 patients. Not valid after 2026-09-22T14:13:20.000Z. Destroy this copy when the system is back.

            == 3W, room 301, bed 1 — Rivera, Ana <b>
               born 1984-03-12; record 100234
               Allergies
                - Penicillin (HIGH RISK)
               Medications: none on record
               Problems: none on record
               Vital signs: none on record
               Results
               !! CRITICAL Potassium: 6.9 mmol/L [HH], 2026-09-21T08:45
               2 older lines are not in this pack
        "#]]
        .assert_eq(&text(&header, &ward));
        let page = html(&header, &ward);
        assert!(page.contains("Ana &lt;b&gt;") && page.contains("<li class=\"c\">CRITICAL Potassium"));
    }
}
