//! Data products: contracts, gates, snapshots, and the SQL port.
