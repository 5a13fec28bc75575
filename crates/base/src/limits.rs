//! Everything has a limit. One struct, units in the names, defaults that a hospital's node can live with.

use serde::{Deserialize, Serialize};

/// Limits of a node. Each can be set under `[limits]` in `mesh.toml`; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest HL7 v2 message, from the start block to the end block.
    pub hl7_message_bytes_max: usize,
    /// Segments in one HL7 v2 message.
    pub hl7_segments_max: usize,
    /// MLLP connections at once, per listener; a source can set a smaller number of its own.
    pub mllp_connections_max: usize,
    /// Messages of one connection whose answers wait for refine; above it nothing more is read from the connection.
    pub mllp_unanswered_max: usize,
    /// How long an answer waits for refine before it says that the message is stored and not yet applied.
    pub hl7_applied_timeout_ms: u64,
    /// A connection that sends nothing this long is closed.
    pub mllp_idle_timeout_ms: u64,
    /// A message must be complete this long after its first byte.
    pub mllp_message_timeout_ms: u64,
    /// Largest FHIR request body.
    pub fhir_body_bytes_max: usize,
    /// Nesting of JSON.
    pub json_depth_max: usize,
    /// Entries of one Bundle.
    pub bundle_entries_max: usize,
    /// Reads in one Bundle.
    pub bundle_reads_max: usize,
    /// Page size of a search when none is asked for.
    pub search_count_default: usize,
    /// Largest page of a search.
    pub search_count_max: usize,
    /// Concepts of one expansion of a value set; more is too costly.
    pub expansion_concepts_max: usize,
    /// Value sets, code systems and concept maps that one question of terminology may need.
    pub terminology_resources_max: usize,
    /// HTTP connections at once.
    pub http_connections_max: usize,
    /// Request line and headers must be complete in this time.
    pub http_header_timeout_ms: u64,
    /// A request must be answered in this time.
    pub http_request_timeout_ms: u64,
    /// Length of one SQL text.
    pub sql_text_bytes_max: usize,
    /// Rows in one SQL answer.
    pub sql_rows_max: usize,
    /// Bytes in one SQL answer.
    pub sql_result_bytes_max: usize,
    /// Time for one SQL statement.
    pub sql_timeout_ms: u64,
    /// SQL statements at once.
    pub sql_concurrency_max: usize,
    /// Memory of the SQL engine for all statements together.
    pub sql_memory_bytes_max: usize,
    /// Appends waiting for the disk, per log; more are answered busy.
    pub log_queue_max: usize,
    /// Bytes of one group commit.
    pub log_frame_bytes_max: usize,
    /// Journal entries not yet refined, per domain; above it doors answer busy.
    pub refine_lag_max: u64,
    /// Free space below which doors answer busy.
    pub disk_free_bytes_min: u64,
    /// A call of the key service that takes longer is an outage: the caller is told to come back.
    pub key_service_timeout_ms: u64,
    /// Calls of the key service at once.
    pub key_service_calls_max: usize,
    /// A resend within this time is recognised by its control id and content.
    pub duplicate_window_ms: i64,
    /// How long an access token lives at most.
    pub token_ttl_ms_max: i64,
    /// How long open requests may take to finish when the node stops.
    pub drain_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hl7_message_bytes_max: 16 << 20,
            hl7_segments_max: 50_000,
            mllp_connections_max: 2_000,
            mllp_unanswered_max: 256,
            hl7_applied_timeout_ms: 30_000,
            mllp_idle_timeout_ms: 3_600_000,
            mllp_message_timeout_ms: 30_000,
            fhir_body_bytes_max: 64 << 20,
            json_depth_max: 64,
            bundle_entries_max: 20_000,
            bundle_reads_max: 500,
            search_count_default: 20,
            search_count_max: 1_000,
            expansion_concepts_max: 10_000,
            terminology_resources_max: 100,
            http_connections_max: 2_000,
            http_header_timeout_ms: 10_000,
            http_request_timeout_ms: 120_000,
            sql_text_bytes_max: 256 << 10,
            sql_rows_max: 1_000_000,
            sql_result_bytes_max: 256 << 20,
            sql_timeout_ms: 60_000,
            sql_concurrency_max: 16,
            sql_memory_bytes_max: 1 << 30,
            log_queue_max: 8_192,
            log_frame_bytes_max: 8 << 20,
            refine_lag_max: 200_000,
            disk_free_bytes_min: 512 << 20,
            key_service_timeout_ms: 5_000,
            key_service_calls_max: 64,
            duplicate_window_ms: 7 * 86_400_000,
            token_ttl_ms_max: 12 * 3_600_000,
            drain_timeout_ms: 20_000,
        }
    }
}
