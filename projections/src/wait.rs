//! Reading your own writes: wait until a read model reflects a position.
//!
//! A command's answer names its position, and a query may ask for rows that reflect at least that. Where the projector leads in
//! this process it says by a watch channel how far it is; where it leads in another one its checkpoint is looked at.

use std::{sync::Arc, time::Duration};

use ledgerline_store::{EventLog, Position, StoreError};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{model::Model, projector::publish, status::State};

/// How often the checkpoint of a projector in another process is looked at while somebody waits for it.
const LOOK: Duration = Duration::from_millis(15);

/// A read model did not get there in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the read model {} is at position {at}, behind {wanted}", model.as_str())]
pub struct Behind {
    /// Which.
    pub model: Model,
    /// How far it is.
    pub at: Position,
    /// How far it should be.
    pub wanted: Position,
}

/// What this process knows of one model.
pub(crate) struct Known {
    pub(crate) position: watch::Sender<Position>,
    pub(crate) state: watch::Sender<State>,
}

/// How far each read model is.
#[derive(Clone)]
pub struct Positions {
    log: Arc<dyn EventLog>,
    known: Arc<[Known]>,
}

impl Positions {
    /// For a process without projectors too: then it looks at their checkpoints.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        let known = Model::ALL
            .iter()
            .map(|_| Known {
                position: watch::Sender::new(Position::START),
                state: watch::Sender::new(State::Elsewhere),
            })
            .collect();
        Self { log, known }
    }

    pub(crate) fn known(&self, model: Model) -> &Known {
        &self.known[model as usize]
    }

    /// What the projector of a model does in this process.
    #[must_use]
    pub fn state(&self, model: Model) -> State {
        self.known(model).state.borrow().clone()
    }

    /// Waits until all of these models reflect a position, for a while. Returns the position that they all reflect then, which
    /// may be a later one.
    ///
    /// # Errors
    /// [`Behind`] for the first model that did not get there in time.
    pub async fn wait(
        &self,
        models: &[Model],
        at_least: Position,
        within: Duration,
    ) -> Result<Position, Behind> {
        let deadline = Instant::now() + within;
        let mut reflected = Position(i64::MAX);
        for model in models {
            let at = self.wait_for(*model, at_least, deadline).await?;
            reflected = reflected.min(at);
        }
        Ok(if models.is_empty() { at_least } else { reflected })
    }

    /// The position that all of these models reflect now. To be asked before the query whose answer it describes.
    ///
    /// # Errors
    /// When the checkpoints cannot be read.
    pub async fn current(&self, models: &[Model]) -> Result<Position, StoreError> {
        let mut reflected = None;
        for model in models {
            if !self.leads(*model) {
                self.look(*model).await?;
            }
            let at = *self.known(*model).position.borrow();
            reflected = Some(reflected.map_or(at, |least: Position| least.min(at)));
        }
        Ok(reflected.unwrap_or(Position::START))
    }

    async fn wait_for(
        &self,
        model: Model,
        wanted: Position,
        deadline: Instant,
    ) -> Result<Position, Behind> {
        let mut position = self.known(model).position.subscribe();
        loop {
            let at = *position.borrow_and_update();
            if at >= wanted {
                return Ok(at);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Behind { model, at, wanted });
            }
            if !self.leads(model) {
                if let Err(error) = self.look(model).await {
                    tracing::debug!(%error, "a checkpoint cannot be read");
                }
                if *position.borrow() >= wanted {
                    continue;
                }
            }
            // The sender lives in `self`, so the only other outcome is that time passed.
            let _ = timeout(left.min(LOOK), position.changed()).await;
        }
    }

    fn leads(&self, model: Model) -> bool {
        matches!(*self.known(model).state.borrow(), State::Leading { .. })
    }

    async fn look(&self, model: Model) -> Result<(), StoreError> {
        let checkpoint = self.log.checkpoint(&model.reader()).await?;
        publish(&self.known(model).position, checkpoint);
        Ok(())
    }
}
