//! Every node of a set of workflows repeated and failed in turn: a crash after any append changes no end, and a retry of a failure comes to
//! the end that the run would have had.

use super::*;

/// A workflow around every kind of node: before it an effect, after it an effect and a choice, beside it a wait, and all come together.
fn workflows() -> Vec<Arc<Plan>> {
    let around = |kind: u8| {
        let sketches = [
            (0, 0, 0, false),
            (kind, 0, 0, true),
            (4, 1, 1, true),
            (3, 0, 0, false),
            (2, 1, 3, true),
            (10, 2, 3, true),
            (0, 4, 5, false),
        ];
        definition(&sketches, true)
    };
    // From 128 on a loop collects where it went on before.
    (0..KINDS).chain([138]).map(around).collect()
}

fn undisturbed(plan: &Arc<Plan>) -> World {
    let mut world = World::new(Arc::clone(plan), Some(one_at_a_time()));
    world.settle();
    world
}

#[test]
fn a_crash_after_any_append_changes_no_end() {
    for plan in workflows() {
        let expected = undisturbed(&plan);
        let mut appends = 0;
        loop {
            let mut world = World::new(Arc::clone(&plan), Some(one_at_a_time()));
            for _ in 0..appends {
                world.go_on(0);
            }
            if world.execution.has_ended() {
                break;
            }
            world.happen(Happening::Crash);
            world.settle();
            assert_eq!(world.ending(), expected.ending(), "after {appends} appends of {plan:?}");
            appends += 1;
        }
        assert!(appends > 3, "there was something to break: {plan:?}");
    }
}

#[test]
fn a_retry_of_a_failure_comes_to_the_end_that_the_run_would_have_had() {
    let mut retried = 0;
    for plan in workflows() {
        let expected = undisturbed(&plan);
        let run = expected.execution.run().expect("it ran");
        let mut nodes: Vec<String> =
            run.nodes.keys().map(|path| path.node_id().to_owned()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            let mut world = World::new(Arc::clone(&plan), None);
            world.fails = Some(node.clone());
            world.settle();
            let left = world.execution.run().expect("it ran").active().count();
            assert_eq!(left, 0, "something is left of the failure of {node} in {plan:?}");
            let Execution::Failed { node: Some(_), .. } = &world.execution else { continue };
            if !matches!(expected.execution, Execution::Completed { .. }) {
                continue;
            }
            let retry = retry_of(RUN, &world.execution, &plan, None).expect("it failed");
            let mut again = World::of(Arc::clone(&plan), retry);
            again.settle();
            assert_eq!(again.ending(), expected.ending(), "a retry after {node} in {plan:?}");
            retried += 1;
        }
    }
    assert!(retried > 20, "{retried} failures were retried");
}
