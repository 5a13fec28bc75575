//! The laws of DESIGN §1 and the main job, end to end, on nodes in process and as processes of their own.
//!
//! `harness` starts a mesh; each law has its file. Nothing sleeps to wait for a node: it waits for the event.

#![allow(clippy::print_stderr)] // Tests say what they did and what they skipped.

mod audit;
mod backpressure;
mod backup;
mod carve;
mod chains;
mod clients;
mod desk;
mod fhir_writes;
mod harness;
mod ingest;
mod key_service;
mod keys;
mod law_1;
mod law_10;
mod law_11;
mod law_12;
mod law_2;
mod law_3;
mod law_4;
mod law_5;
mod law_7;
mod law_8;
mod law_9;
mod lists;
mod lost_keys;
mod merges;
mod mllp;
mod operations;
mod postgres;
mod query;
mod rebuild;
mod renderings;
mod route_makes;
mod route_permits;
mod routes;
mod secrets;
mod spine;
