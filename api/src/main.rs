//! The program: reads what was typed and does it.

use std::process::ExitCode;

use clap::Parser as _;
use ledgerline_api::cli::{self, Cli};
use mimalloc::MiMalloc;

/// Events are many small allocations that are made in one thread and freed in another.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::failed(&anyhow::Error::from(error).context("cannot start")),
    };
    let code = runtime.block_on(cli::run(cli));
    // What still blocks (a name being resolved, a file being read) is not waited for.
    runtime.shutdown_background();
    code
}
