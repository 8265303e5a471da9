//! A term lasts as long as its lease may, and no longer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use ledgerline_store::{AppendFault, Faults, Intent, SimulatedLog};
use tokio::time::sleep;

use super::*;
use crate::testing::{LEASE, World};

const READER: &str = "test";

/// A store that does not renew leases while it is away.
#[derive(Default)]
struct Away {
    away: AtomicBool,
    refused: AtomicUsize,
}

impl Faults for Away {
    fn on_append(&self, _: &Intent) -> AppendFault {
        AppendFault::None
    }

    fn is_unavailable(&self, operation: &'static str) -> bool {
        let refused = operation == "renew_lease" && self.away.load(Ordering::SeqCst);
        self.refused.fetch_add(usize::from(refused), Ordering::SeqCst);
        refused
    }
}

fn process(owner: &str) -> Leading {
    Leading { owner: owner.to_owned(), lease_ttl: LEASE }
}

async fn term(world: &World, stop: &CancellationToken) -> (Arc<dyn EventLog>, Term) {
    let log: Arc<dyn EventLog> = Arc::<SimulatedLog>::clone(&world.log);
    let term = Term::begin(&log, READER, &process("one"), stop).await.unwrap();
    (log, term)
}

#[tokio::test(start_paused = true)]
async fn a_term_outlasts_a_store_that_is_away_for_a_moment() {
    let (world, stop, faults) = (World::new(), CancellationToken::new(), Arc::new(Away::default()));
    let (log, mut term) = term(&world, &stop).await;
    world.log.set_faults(Some(Arc::<Away>::clone(&faults)));
    let (epoch, began) = (term.lease.epoch, Instant::now());
    let work = async {
        // Away whenever the first renewal of a lease is due, back before the last one is.
        for _ in 0..10 {
            faults.away.store(true, Ordering::SeqCst);
            sleep(LEASE / 2).await;
            faults.away.store(false, Ordering::SeqCst);
            sleep(LEASE / 10).await;
            let rival = log.acquire_lease(READER, "rival", 1).await.unwrap();
            assert!(rival.is_none(), "the lease never ran out");
        }
    };
    term.during(&stop, work).await.unwrap();
    assert_eq!(began.elapsed(), LEASE * 6);
    assert!(faults.refused.load(Ordering::SeqCst) >= 5, "renewals were refused");
    let rival = timeout(LEASE * 2, Term::begin(&log, READER, &process("two"), &stop)).await;
    assert!(
        rival.unwrap().unwrap().lease.epoch > epoch,
        "the lease runs out once nobody renews it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_term_ends_before_another_process_can_lead() {
    let (world, stop, faults) = (World::new(), CancellationToken::new(), Arc::new(Away::default()));
    let (log, mut term) = term(&world, &stop).await;
    faults.away.store(true, Ordering::SeqCst);
    world.log.set_faults(Some(Arc::<Away>::clone(&faults)));
    let (began, steps) = (Instant::now(), AtomicUsize::new(0));
    let work = async {
        loop {
            sleep(LEASE / 100).await;
            steps.fetch_add(1, Ordering::SeqCst);
        }
    };
    let ended: Result<(), TermEnd> = term.during(&stop, work).await;
    assert!(matches!(ended, Err(TermEnd::Lost)), "{ended:?}");
    assert!((LEASE * 3 / 5..LEASE * 3 / 4).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(steps.load(Ordering::SeqCst) > 50, "the work went on meanwhile");
    assert!((2..20).contains(&faults.refused.load(Ordering::SeqCst)), "{:?}", faults.refused);
    let rival = log.acquire_lease(READER, "rival", 1).await.unwrap();
    assert!(rival.is_none(), "the term has ended before its lease");
}

#[tokio::test(start_paused = true)]
async fn a_term_ends_at_once_when_its_lease_was_taken_over() {
    let (world, stop) = (World::new(), CancellationToken::new());
    let (log, mut term) = term(&world, &stop).await;
    log.release_lease(&term.lease).await.unwrap();
    log.acquire_lease(READER, "rival", 60_000).await.unwrap().unwrap();
    let began = Instant::now();
    let ended = term.during(&stop, sleep(LEASE * 10)).await;
    assert!(matches!(ended, Err(TermEnd::Lost)), "{ended:?}");
    assert!(began.elapsed() <= LEASE / 3 + Duration::from_millis(2), "{:?}", began.elapsed());
}
