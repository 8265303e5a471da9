//! All that runs executions, in this process: commands, dispatch, timers, the worker, NATS, relay and projections.

use std::{path::Path, sync::Arc, time::Duration};

use ledgerline_commands::{
    Clock, Commands, Context, DispatchSettings, Dispatcher, Leading, Policies, Settings, Target,
    Timers,
    start::{Start, StartRejection, start},
};
use ledgerline_domain::{
    event::Actor,
    execution::{Execution, TriggerType},
    graph::Definition,
    id::{ExecutionId, WorkflowId, WorkspaceId},
    json::Json,
    workflow::{CreateWorkflow, NewDraft, Workflow, WorkflowCommand},
};
use ledgerline_nats::{
    CarrierConfig, LiveLogs, Nats, NatsConfig, Prefix, WorkSource, WorkSourceConfig, relay, work,
};
use ledgerline_projections::{Positions, ProjectorConfig, prepare, search_path, spawn};
use ledgerline_store::{EventLog, LogConfig, PostgresLog, Tail};
use ledgerline_worker::{Worker, WorkerSettings};
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::servers::Servers;

/// A deployment in one process, without HTTP.
pub(crate) struct Engine {
    pub commands: Commands,
    pub tail: Arc<Tail>,
    pub pool: PgPool,
    pub workspace: WorkspaceId,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Engine {
    pub(crate) async fn start(
        servers: &Servers,
        name: &str,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let pool = servers.pool(name, &search_path()).await?;
        ledgerline_store::migrate(&pool).await?;
        prepare(&pool).await?;
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let log: Arc<dyn EventLog> =
            PostgresLog::connect(pool.clone(), LogConfig::default(), &tracker, cancel.clone())
                .await?;
        let tail = Tail::start(Arc::clone(&log), &tracker, cancel.clone());
        let commands = Commands::new(Arc::clone(&log), Clock::system(), Settings::default());
        let leading = Leading { owner: "bench".to_owned(), lease_ttl: Duration::from_secs(15) };
        let settings = DispatchSettings {
            leading: leading.clone(),
            look_every: Duration::from_millis(500),
            untaken_grace: Duration::from_secs(30),
        };
        let dispatcher = Dispatcher::new(commands.clone(), Arc::clone(&tail), settings);
        let policies = Policies::new(commands.clone(), Arc::clone(&tail), leading.clone());
        let timers = Timers::new(commands.clone(), leading);
        let (a, b, c) = (cancel.clone(), cancel.clone(), cancel.clone());
        tracker.spawn(async move { dispatcher.run(a).await.expect("dispatch knows every event") });
        tracker.spawn(async move { policies.run(b).await.expect("the policies know every event") });
        tracker.spawn(async move { timers.run(c).await.expect("the timers know every event") });
        let positions = Positions::new(Arc::clone(&log));
        spawn(
            &pool,
            &log,
            &positions,
            &ProjectorConfig::new("bench"),
            chrono::Utc::now,
            &tracker,
            &cancel,
        );
        let nats = Self::nats(servers, &tracker, &cancel).await?;
        relay::start(
            Arc::clone(&log),
            nats.clone(),
            CarrierConfig::new("bench").with_tail(Arc::clone(&tail)),
            &tracker,
            cancel.clone(),
        );
        work::start(
            Arc::clone(&log),
            nats.clone(),
            CarrierConfig::new("bench").with_tail(Arc::clone(&tail)),
            &tracker,
            cancel.clone(),
        );
        let source = WorkSource::start(
            Arc::clone(&log),
            Some(nats.clone()),
            WorkSourceConfig::default(),
            &tracker,
            cancel.clone(),
        );
        let live = LiveLogs::new(Some(nats), Uuid::now_v7());
        let worker =
            WorkerSettings { slots: 512, ..WorkerSettings::new("bench".to_owned(), folder) };
        Worker::start(
            worker,
            commands.clone(),
            Arc::clone(&tail),
            source,
            live,
            &tracker,
            cancel.clone(),
        )?;
        Ok(Self { commands, tail, pool, workspace: WorkspaceId(Uuid::now_v7()), tracker, cancel })
    }

    async fn nats(
        servers: &Servers,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Nats> {
        let Some(address) = &servers.embedded.nats else {
            anyhow::bail!("nats-server is not on this machine")
        };
        let prefix = Prefix::new(&format!("bench{}", Uuid::now_v7().simple()))?;
        let config = NatsConfig {
            token: Some(address.token.clone()),
            prefix,
            ..NatsConfig::new(&address.url)
        };
        let nats = Nats::connect(config, tracker, cancel.clone()).await?;
        nats.ready().await;
        Ok(nats)
    }

    pub(crate) async fn workflow(&self, definition: &Value) -> anyhow::Result<WorkflowId> {
        let id = WorkflowId(Uuid::now_v7());
        let definition = Definition::parse(Json::from_value(definition))
            .map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        let draft = NewDraft {
            name: "bench".to_owned(),
            description: String::new(),
            definition,
            tags: Vec::new(),
            is_public: false,
        };
        let create = WorkflowCommand::Create(CreateWorkflow {
            workspace_id: self.workspace,
            parent_workflow_id: None,
            draft,
        });
        self.commands
            .execute::<Workflow>(Target::new(id, self.workspace), &create, &context())
            .await?;
        Ok(id)
    }

    /// Requests a run.
    pub(crate) async fn request(
        &self,
        execution_id: ExecutionId,
        workflow_id: WorkflowId,
    ) -> anyhow::Result<()> {
        let wanted = Start {
            execution_id,
            workflow_id,
            trigger_type: TriggerType::Manual,
            input: Json::null(),
            depth: 0,
        };
        let wanted = &wanted;
        self.commands
            .execute_with::<Execution, StartRejection, _, _>(&context(), |scope| async move {
                start(&scope, wanted).await
            })
            .await?;
        Ok(())
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(Duration::from_secs(30), self.tracker.wait()).await;
        self.pool.close().await;
    }
}

fn context() -> Context {
    Context::new(Actor::system("bench"))
}
