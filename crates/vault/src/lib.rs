//! Keys: object, scope, epoch, root; sealing, opening, re-wrapping, destroying.
