//! Governed SQL over HTTPS on products built from what was imported. Encrypted against plain scans, and governed against
//! hand-filtered queries, are compared in `lake`'s example `scan_bench`.

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use super::Plan;
use super::figure::{Figure, drive};
use super::mesh::{Request, TestMesh};
use crate::commands::{Failure, Result, progress};

/// (what, who asks, statement, at once)
const STATEMENTS: &[(&str, &str, &str, usize)] = &[
    ("one row of patients", "dr-lee", "SELECT mrn, family, birth_date, city FROM ehr.patients WHERE id = '@ID@'", 8),
    (
        "ten rows of patients, masked",
        "ana-analyst",
        "SELECT mrn, family, birth_date, postal_code FROM ehr.patients ORDER BY id LIMIT 10",
        8,
    ),
    ("aggregate over patients", "ana-analyst", "SELECT gender, count(*) AS n FROM ehr.patients GROUP BY gender", 8),
    ("aggregate over encounters", "ana-analyst", "SELECT class, count(*) AS n FROM ehr.encounters GROUP BY class", 8),
    ("aggregate over encounters", "ana-analyst", "SELECT class, count(*) AS n FROM ehr.encounters GROUP BY class", 1),
];

pub async fn figures(mesh: &TestMesh, plan: &Plan) -> Result<Vec<Figure>> {
    let mut rows = Vec::new();
    for product in ["patients", "encounters"] {
        progress(&format!("building ehr.{product}"));
        let token = mesh.token("eng-ehr").await?;
        let path = format!("/admin/products/ehr/{product}/build");
        let built = mesh.operator().post(&path, Some(&token), &Value::Null).await?;
        rows.push(format!("{product} {} rows", built["rows"]));
    }
    let ids = ids(mesh).await?;
    let mut figures = Vec::new();
    for (what, who, sql, connections) in STATEMENTS {
        progress(&format!("SQL: {what}, {connections} at once"));
        let token = mesh.token(who).await?;
        let texts = if sql.contains("@ID@") {
            ids.iter().map(|id| sql.replace("@ID@", id)).collect()
        } else {
            vec![(*sql).to_owned()]
        };
        let requests = texts.into_iter().map(statement).collect();
        let load = drive(mesh.callers(*connections, &token, requests).await?, plan.time).await?;
        figures.push(
            Figure::of(format!("governed SQL: {what}, {connections} connections"), &load, "queries/s")
                .under(rows.join(", ")),
        );
    }
    Ok(figures)
}

fn statement(sql: String) -> Request {
    let headers = &[("content-type", "application/sql"), ("accept", "text/csv")];
    Request { method: Method::POST, path: "/sql".into(), headers, body: Bytes::from(sql) }
}

/// Keys of the patients product.
async fn ids(mesh: &TestMesh) -> Result<Vec<String>> {
    let token = mesh.token("dr-lee").await?;
    let headers = [("accept", "text/csv")];
    let sql = "SELECT id FROM ehr.patients ORDER BY id LIMIT 1000";
    let answer = mesh.https().await?.call(Method::POST, "/sql", Some(&token), &headers, sql).await?;
    if !answer.status.is_success() {
        return Err(Failure::said(format!("the products cannot be read: {}", answer.text())));
    }
    Ok(answer.text().lines().skip(1).map(str::to_owned).collect())
}
