//! The two ways out: what a command prints, and what it says beside that.

use std::io::{self, Write as _};

/// Prints a line on standard output. A reader that has gone away (`| head`) is a failure like any other.
///
/// # Errors
/// When it cannot be written.
pub(super) fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Says something on standard error. When even that is gone, nobody is left to be told.
pub(super) fn note(line: &str) {
    let _gone = writeln!(io::stderr().lock(), "{line}");
}
