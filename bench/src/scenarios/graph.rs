//! Validating the largest graph that may be saved: by itself, and as a request to the real program. The raw limit is reading its JSON.

use std::time::Instant;

use ledgerline_domain::{
    graph::Definition,
    json::Json,
    limits::{MAX_CONNECTIONS, MAX_NODES},
};
use serde_json::{Value, json};

use crate::{latency::Latency, report::Report, server::Server, servers::Servers};

/// How often it is validated.
const ROUNDS: usize = 20;

/// Layers of a hundred nodes, each node after some of the layer before it; every second one has expressions and templates to be parsed.
fn definition(nodes: usize, connections: usize) -> Value {
    const LAYER: usize = 100;
    let node = |n: usize| match n {
        0 => json!({"id": "n0", "type": "trigger.manual"}),
        n if n % 2 == 0 => {
            json!({"id": format!("n{n}"), "type": "logic.transform", "config": {"expression": format!("input.count * {n} + size(input.items)")}})
        }
        n => {
            json!({"id": format!("n{n}"), "type": "action.http", "idempotent": true,
                   "config": {"method": "GET", "url": format!("https://example.com/{n}/{{{{ input.name }}}}")}})
        }
    };
    // The first layer follows on the trigger, and every other node on its fellow of the layer before; the rest goes crosswise.
    let mut connected: Vec<(usize, usize)> =
        (1..nodes).map(|n| (n.saturating_sub(LAYER), n)).collect();
    let across =
        (1..LAYER).flat_map(|shift| (LAYER + shift..nodes).map(move |n| (n - LAYER - shift, n)));
    connected.extend(across.take(connections - connected.len()));
    let connections = connected
        .iter()
        .map(|(from, to)| json!({"from": format!("n{from}"), "to": format!("n{to}")}));
    json!({"nodes": (0..nodes).map(node).collect::<Vec<_>>(), "connections": connections.collect::<Vec<_>>(), "settings": {}})
}

pub(crate) async fn run(servers: &Servers, report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start(servers, "graph").await?;
    let mut client = server.client().await?;
    for connections in [MAX_NODES + MAX_NODES / 2, MAX_CONNECTIONS] {
        let mut definition = definition(MAX_NODES, connections);
        let text = definition.to_string();
        let connections = definition["connections"].as_array().map_or(0, Vec::len);
        let params = |what: &str| json!({"what": what, "nodes": MAX_NODES, "connections": connections, "bytes": text.len()});
        let mut raw = Latency::default();
        let mut parsed = Latency::default();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let value: Value = serde_json::from_str(&text)?;
            raw.record(begun.elapsed());
            let json = Json::from_value(&value);
            let begun = Instant::now();
            let sound = Definition::parse(json);
            parsed.record(begun.elapsed());
            sound.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        }
        let median = |latency: &Latency| latency.quantiles_ms([0.5]).map(|[median]| median);
        let (ours, raw) = (median(&parsed).unwrap_or_default(), median(&raw));
        report.row(params("validated"), ours, "ms", Some(&parsed), raw);

        definition["name"] = json!("Graph");
        let (body, mut asked) = (definition.to_string(), Latency::default());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let (status, answer) = client.send("POST", "/api/v1/workflows/validate", &body).await?;
            asked.record(begun.elapsed());
            anyhow::ensure!(
                status == 200 && answer.contains("\"valid\":true"),
                "{status}: {answer}"
            );
        }
        let ours = median(&asked).unwrap_or_default();
        report.row(params("request"), ours, "ms", Some(&asked), raw);
    }
    Ok(())
}
