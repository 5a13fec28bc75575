//! The only crate that names DataFusion: builds, secured scans, encrypted Parquet.
