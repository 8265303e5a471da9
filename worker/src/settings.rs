//! What a worker process is given to work with.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use ledgerline_store::sealed::SealedValues;

use crate::{allowed::AllowList, outbound::Reach, subprocess::RunAs};

/// The settings of a worker process.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The name of its lease row: unique among running processes.
    pub worker: String,
    /// How many executions it runs at once. A run that waits for something holds no slot, so this bounds effects under way.
    pub slots: usize,
    /// How long it counts as alive after its last sign of life. It gives one every third of this.
    pub lease_ttl: Duration,
    /// How long running steps may go on after a stop before they are handed back.
    pub drain: Duration,
    /// Which addresses `action.http` may reach.
    pub reach: Arc<Reach>,
    /// Which programs `action.command` may run.
    pub allowed: Arc<AllowList>,
    /// As whom those run; needed when the worker is root.
    pub run_as: Option<RunAs>,
    /// The folder of all workspaces' files.
    pub files_dir: PathBuf,
    /// Where programs get a directory of their own while they run.
    pub scratch_dir: PathBuf,
    /// Where secrets and connections are; none where the process has no master key, so that nodes which need one fail.
    pub sealed: Option<SealedValues>,
    /// Values of the deployment that workflows see as `env`.
    pub env: BTreeMap<String, String>,
}

impl WorkerSettings {
    /// A worker that keeps its files below a folder, reaches only what is public, and runs no program.
    #[must_use]
    pub fn new(worker: String, folder: &std::path::Path) -> Self {
        Self {
            worker,
            slots: 256,
            lease_ttl: Duration::from_secs(30),
            drain: Duration::from_secs(20),
            reach: Arc::new(Reach::public()),
            allowed: Arc::new(AllowList::default()),
            run_as: None,
            files_dir: folder.join("files"),
            scratch_dir: folder.join("scratch"),
            sealed: None,
            env: BTreeMap::new(),
        }
    }
}
