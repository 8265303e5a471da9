//! The log over HTTP: the one order, by page and by stream, for operators whole and for members their workspace's.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{Deployment, Person, greeting};

async fn lines(person: &Person, path: &str) -> Vec<Value> {
    let accept = [("accept", "application/x-ndjson")];
    let answer = person.send(Method::GET, path, None, &accept).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    match &answer.body {
        Value::String(text) => {
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
        }
        one => vec![one.clone()],
    }
}

fn positions(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["position"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_reads_everything_without_a_gap() {
    let house = Deployment::start().await;
    let operator = house.sign_up("ada").await;
    for number in 0..10 {
        operator.make_workflow(&greeting(&format!("workflow {number}"))).await;
    }
    // Nothing follows by itself once the audit is told.
    operator.get("/system/audit").await.expect(200);
    let all = lines(&operator, "/log/events").await;
    let head = all.len() as i64;
    assert!(head >= 10);
    assert_eq!(positions(&all), (1..=head).collect::<Vec<_>>());

    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = operator.get(&format!("/log/events?limit=3{cursor}")).await;
        let items = page.items().to_vec();
        assert!(items.len() <= 3);
        paged.extend(items);
        match page.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                assert_eq!(page.body["position"], head);
                break;
            }
        }
    }
    assert_eq!(paged, all);

    let part = lines(&operator, "/log/events?after=2&until=5").await;
    assert_eq!(positions(&part), [3, 4, 5]);
    let category = lines(&operator, "/log/events?category=workflow&type=workflow_created").await;
    assert_eq!(category.len(), 10);
    let since = all[4]["time"].as_str().unwrap();
    let before = lines(&operator, &format!("/log/events?until={since}")).await;
    assert!(positions(&before).contains(&5) && before.len() < all.len());
    for bad in
        ["after=x", "after=-1", "offset=3", "sort=time", "limit=0", "kind=x", "after=1&cursor=1"]
    {
        let refused = operator.get(&format!("/log/events?{bad}")).await;
        refused.is_problem(422, "invalid-value");
    }
    let beyond = operator.get("/log/events?after=999999").await;
    beyond.is_problem(422, "position-unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_reads_the_workspace_and_nothing_else() {
    let house = Deployment::start().await;
    let operator = house.sign_up("ada").await;
    let bob = house.sign_up("bob").await;
    let hers = operator.post("/workflows", &greeting("hers")).await.expect(201);
    let his = bob.post("/workflows", &greeting("his")).await.expect(201);
    let workspace = his.text("workspace_id");

    let whole = bob.get("/log/events").await;
    whole.is_problem(403, "forbidden");
    let own = lines(&bob, &format!("/log/events?workspace={workspace}")).await;
    assert!(own.iter().all(|event| event["workspaceid"] == workspace), "{own:?}");
    let sequence: Vec<i64> =
        own.iter().map(|event| event["workspaceseq"].as_i64().unwrap()).collect();
    assert_eq!(sequence, (1..=own.len() as i64).collect::<Vec<_>>(), "without a gap");
    let foreign = format!("/log/events?workspace={}", hers.text("workspace_id"));
    bob.get(&foreign).await.is_problem(404, "not-found");
    let both =
        format!("/log/events?workspace={workspace}&workspace_id={}", hers.text("workspace_id"));
    bob.get(&both).await.is_problem(404, "not-found");

    let stream = bob.get(&format!("/log/streams/{}", his.text("id"))).await;
    assert_eq!(stream.body["items"][0]["type"], "ledgerline.workflow.workflow_created.v1");
    assert_eq!((&stream.body["total"], stream.header("etag")), (&json!(1), "\"1\""));
    let hidden = format!("/log/streams/{}", hers.text("id"));
    bob.get(&hidden).await.is_problem(404, "not-found");
    let nowhere = "/log/streams/0199a0c0-0000-7000-8000-000000000001";
    bob.get(nowhere).await.is_problem(404, "not-found");
    assert_eq!(operator.get(&hidden).await.status.as_u16(), 200);
}
