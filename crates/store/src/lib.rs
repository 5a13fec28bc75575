//! Objects, catalog, silver and the search index.
