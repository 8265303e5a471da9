//! Integration tests live in `it/` and `sim/`; this crate exports nothing.
