//! What a workflow cannot be talked into asking: servers inside, however they are named and whoever leads there.

use std::sync::Arc;

use ledgerline_worker::outbound::{Reach, Redirects, check, client};

use crate::support::echo::Echo;

/// Every cause of an error, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A server that may be asked, as a public one is, leads to one that may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_leads_nowhere_inside() {
    let (outside, inside) = (Echo::start().await, Echo::start().await);
    let allowed = outside.base.trim_start_matches("http://").parse().unwrap();
    let reach = Arc::new(Reach::public().and_endpoint(allowed));
    let client = client(Arc::clone(&reach), Redirects::Anywhere).unwrap();
    let port = inside.base.rsplit(':').next().unwrap();

    // It is asked itself, and within itself redirects are followed: what is refused below is refused for where it leads.
    outside.redirects_to(&format!("{}/echo", outside.base));
    let followed = client.get(format!("{}/redirect", outside.base)).send().await.unwrap();
    assert_eq!(followed.status(), 200);

    for target in [
        format!("{}/echo", inside.base),
        format!("http://localhost:{port}/echo"),
        format!("http://LOCALHOST:{port}/echo"),
        format!("http://2130706433:{port}/echo"),
        format!("http://0x7f000001:{port}/echo"),
        format!("http://0177.0.0.1:{port}/echo"),
        format!("http://127.1:{port}/echo"),
        format!("http://0.0.0.0:{port}/echo"),
        format!("http://[::1]:{port}/echo"),
        format!("http://[::]:{port}/echo"),
        format!("http://[::ffff:127.0.0.1]:{port}/echo"),
        format!("http://[::ffff:7f00:1]:{port}/echo"),
        format!("http://[::127.0.0.1]:{port}/echo"),
        format!("http://[64:ff9b::127.0.0.1]:{port}/echo"),
        format!("http://[2002:7f00:1::]:{port}/echo"),
        format!("http://user:password@127.0.0.1:{port}/echo"),
        format!("//127.0.0.1:{port}/echo"),
        // Where clouds tell a machine its credentials.
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://[::ffff:169.254.169.254]/latest/meta-data/".to_owned(),
        "http://[fd00:ec2::254]/latest/meta-data/".to_owned(),
        "http://100.100.100.200/latest/meta-data/".to_owned(),
        "http://192.0.0.192/opc/v2/instance/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
    ] {
        let direct =
            if target.starts_with("//") { format!("http:{target}") } else { target.clone() };
        // A name is only found out when it is resolved.
        if !direct.to_ascii_lowercase().contains("localhost") {
            assert!(check(&direct, &reach).is_err(), "{direct}");
        }
        outside.redirects_to(&target);
        let refused = client.get(format!("{}/redirect", outside.base)).send().await;
        let refused = match refused {
            // What is no HTTP at all is not followed: the answer that leads there is the answer.
            Ok(answer) => {
                assert!(!target.contains("http") && answer.status() == 307, "{target}: {answer:?}");
                continue;
            }
            Err(refused) => refused,
        };
        let said = chain(&refused);
        let by_us = ["not reachable from workflows", "is not allowed", "user name or password"];
        assert!(by_us.iter().any(|words| said.contains(words)), "{target}: {said}");
    }
    assert!(inside.headers("/echo", "host").is_empty(), "nobody came in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_that_never_end_are_left() {
    let outside = Echo::start().await;
    let allowed = outside.base.trim_start_matches("http://").parse().unwrap();
    let reach = Arc::new(Reach::public().and_endpoint(allowed));
    let client = client(reach, Redirects::Anywhere).unwrap();
    outside.redirects_to(&format!("{}/redirect", outside.base));
    let refused = client.get(format!("{}/redirect", outside.base)).send().await.unwrap_err();
    assert!(chain(&refused).contains("too many redirects"), "{}", chain(&refused));
}
