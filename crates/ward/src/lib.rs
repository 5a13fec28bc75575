//! The node: configuration, build(), subcommands.
