//! Append-only logs: write-ahead head, Merkle tiles, checkpoints, proofs.
