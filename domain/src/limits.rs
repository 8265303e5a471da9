//! Every bound of the domain, with its reason.

/// The largest node output inside an event. Larger ones are blobs, so that the log, the relay and every subscriber stay fast.
pub const MAX_INLINE_OUTPUT_BYTES: usize = 256 * 1024;
