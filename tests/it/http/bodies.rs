//! Bodies that are refused before they are read, over a real connection.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::http::Deployment;

/// Sends a request with a body of so many bytes and reads the whole answer, as a plain client does that asks nothing first.
async fn send(address: &str, headers: &str, bytes: usize) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("the head is taken");
    let piece = vec![b' '; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len());
        stream.write_all(&piece[..now]).await.expect("the body is taken to its end");
        left -= now;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer comes whole");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_too_much_hears_so_and_is_not_cut_off() {
    let deployment = Deployment::start().await;
    let megabytes = 30 * 1024 * 1024;
    let answer =
        send(deployment.address(), &format!("Content-Length: {megabytes}\r\n"), megabytes).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("body-too-large"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_first_is_refused_without_sending() {
    let deployment = Deployment::start().await;
    let headers = "Content-Length: 31457280\r\nExpect: 100-continue\r\n";
    let answer = send(deployment.address(), headers, 0).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "nothing else was asked for: {answer}");
}
