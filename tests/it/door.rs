//! What stands between the network and the routes: TLS, deadlines of connections, headers, proxies, and what a request may not smuggle in.

use std::{fs, sync::Arc, time::Duration};

use ledgerline_api::config::{Config, HttpConfig};
use nix::sys::signal::Signal;
use reqwest::Method;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::support::{
    http::{Answer, Deployment, PASSWORD, greeting},
    program::{MASTER_KEY, PATIENCE, Program, command},
    services,
};

/// A certificate for this machine and the files that hold it and its key.
struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn new() -> Self {
        let mut certificate = Self { folder: tempfile::tempdir().unwrap(), der: Vec::new().into() };
        certificate.renew();
        certificate
    }

    /// Puts another one into the same files.
    fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(self.path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        self.der = made.cert.der().clone();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// Speaks TLS of a version to a server whose certificate must be this one; gives the first line of the answer.
async fn speak(
    address: &str,
    certificate: &CertificateDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("strict-transport-security: max-age=31536000"), "{text}");
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_3_alone_is_spoken_and_a_new_certificate_needs_no_restart() {
    let database = services::database().await;
    let mut certificate = Certificate::new();
    let (cert, key) = (certificate.path("cert.pem"), certificate.path("key.pem"));
    let serve = |cert: &str, key: &str| {
        let mut program = command(&["serve", "--roles", "api", "--listen", "127.0.0.1:0"]);
        program.args(["--tls-cert", cert, "--tls-key", key]);
        program.env("DATABASE_URL", database.url()).env("LEDGERLINE_MASTER_KEY", MASTER_KEY);
        program
    };
    let program = Program::start(serve(&cert, &key));
    let address = program.base.strip_prefix("https://").expect("it says https").to_owned();
    let answer = speak(&address, &certificate.der, &TLS13).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 200 OK");
    let older = speak(&address, &certificate.der, &TLS12).await.unwrap_err();
    assert!(older.to_string().contains("ProtocolVersion"), "{older}");

    // Plain HTTP is no handshake: the connection ends without an answer, and others are served meanwhile.
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _broken_off = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));

    // A file that is no certificate changes nothing; then a new pair is shown.
    let old = certificate.der.clone();
    fs::write(&cert, "not a certificate").unwrap();
    program.signal(Signal::SIGHUP);
    assert!(speak(&address, &old, &TLS13).await.is_ok());
    certificate.renew();
    program.signal(Signal::SIGHUP);
    let until = Instant::now() + PATIENCE;
    while speak(&address, &certificate.der, &TLS13).await.is_err() {
        assert!(Instant::now() < until, "{}", program.said());
    }
    assert!(speak(&address, &old, &TLS13).await.is_err(), "the old one is no longer shown");
    assert!(program.stop().success());

    // What can't be served is said before anything starts.
    let other = Certificate::new();
    for (cert, key, word) in [
        (cert.as_str(), other.path("key.pem").as_str(), "can't be used"),
        (cert.as_str(), "/nowhere/key.pem", "failed to read /nowhere/key.pem"),
        (key.as_str(), key.as_str(), "holds no certificate"),
    ] {
        let refused = serve(cert, key).output().unwrap();
        assert_eq!(refused.status.code(), Some(64));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(word) && said.contains("--tls-cert"), "{said}");
    }
}

/// A deployment whose connections are bounded like this.
async fn bounded(change: impl FnOnce(&mut HttpConfig)) -> Deployment {
    Deployment::start_with(|mut config: Config| {
        change(&mut config.http);
        config
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_comes_too_slowly_and_a_connection_that_idles_are_cut_off() {
    let house = bounded(|http| http.head_timeout_ms = 300).await;
    // A byte every now and then is no progress.
    let mut slow = TcpStream::connect(house.address()).await.unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").await.unwrap();
    let (mut reader, mut writer) = slow.split();
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if writer.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    let cut = async {
        let mut answer = Vec::new();
        let _reset = reader.read_to_end(&mut answer).await;
    };
    timeout(PATIENCE, async {
        tokio::select! { () = drip => {}, () = cut => {} }
    })
    .await
    .expect("it is cut off");

    let mut idle = TcpStream::connect(house.address()).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_too_slowly_is_answered_and_not_waited_for() {
    let house = bounded(|http| http.request_timeout_ms = 1_000).await;
    let mut slow = TcpStream::connect(house.address()).await.unwrap();
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64];
    let read = timeout(PATIENCE, slow.read(&mut answer)).await.expect("it is answered").unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_no_answer_holds_no_connection_for_others() {
    const CONNECTIONS: usize = 16;
    let house = bounded(|http| {
        http.max_connections = CONNECTIONS;
        http.stall_timeout_ms = 500;
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(house.address().parse().unwrap()).await.unwrap();
        // Far more than fits into the buffers between the two, and none of it is read.
        let ask = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40);
        stream.write_all(ask.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    // All connections are taken, so this one is served when one of them is given up.
    let nobody = house.nobody();
    let answer = timeout(PATIENCE, nobody.send_raw(Method::GET, "/health", None, &[]));
    answer.await.expect("a connection becomes free").expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_tells_a_browser_to_be_careful() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let nobody = house.nobody();
    let get = async |path: &str| nobody.send_raw(Method::GET, path, None, &[]).await;
    let answers = [
        get("/").await,
        get("/docs").await,
        get("/health").await,
        get("/nowhere").await,
        get("/api/v1/auth/me").await,
        ada.get("/workflows").await,
        ada.send(Method::POST, "/workflows", None, &[]).await,
    ];
    for answer in answers {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("x-xss-protection", "0"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{name} of {answer:?}");
        }
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{answer:?}");
        assert!(policy.contains("frame-ancestors 'none'"), "{answer:?}");
        for lax in ["unsafe-inline", "unsafe-eval", "*", "http:", "data:"] {
            assert!(!policy.contains(lax), "{lax} in {policy}");
        }
        assert_eq!(answer.header("strict-transport-security"), "", "not over plain HTTP");
    }
    let safe = bounded(|http| http.public_url = Url::parse("https://flows.example").unwrap()).await;
    let answer = safe.nobody().send_raw(Method::GET, "/health", None, &[]).await;
    assert_eq!(answer.header("strict-transport-security"), "max-age=31536000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_may_call_only_where_the_deployment_says_so() {
    let house = bounded(|http| http.allowed_origins = vec!["https://app.example".to_owned()]).await;
    let preflight = async |origin: &str| {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization,if-match"),
        ];
        house.nobody().send(Method::OPTIONS, "/workflows", None, &asked).await
    };
    let allowed = preflight("https://app.example").await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert!(allowed.header("access-control-allow-methods").contains("PUT"));
    assert!(allowed.header("access-control-allow-headers").contains("if-match"));
    // No cookie ever goes with a call from elsewhere.
    assert_eq!(allowed.header("access-control-allow-credentials"), "");
    for other in
        ["https://evil.example", "http://app.example", "https://app.example.evil.example", "null"]
    {
        let refused = preflight(other).await;
        assert_eq!(refused.header("access-control-allow-origin"), "", "{other}");
        let origin = [("origin", other)];
        let asked = house.nobody().send(Method::GET, "/workflows", None, &origin).await;
        assert_eq!(asked.header("access-control-allow-origin"), "", "{other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_is_where_a_trusted_proxy_says_and_nobody_else() {
    let ip_of = async |house: &Deployment| {
        let ada = house.sign_up("ada").await;
        let login = json!({ "email": "ada@example.com", "password": PASSWORD });
        let through = [("x-forwarded-for", "6.6.6.6, 198.51.100.7")];
        let body = Some(&login);
        house.nobody().send(Method::POST, "/auth/login", body, &through).await.expect(200);
        let sessions = ada.get("/auth/sessions").await.expect(200);
        let mut ips: Vec<String> = sessions.each("ip").into_iter().map(str::to_owned).collect();
        ips.sort();
        ips
    };
    let trusting = bounded(|http| http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    assert_eq!(ip_of(&trusting.await).await, ["127.0.0.1", "198.51.100.7"]);
    let alone = Deployment::start().await;
    assert_eq!(ip_of(&alone).await, ["127.0.0.1", "127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_to_tell_of_a_security_problem_is_said_where_it_is_configured() {
    let nobody = Deployment::start().await;
    let path = "/.well-known/security.txt";
    let answer = nobody.nobody().send_raw(Method::GET, path, None, &[]).await;
    answer.is_problem(404, "not-found");
    let contact = Url::parse("mailto:security@example.com").unwrap();
    let house = bounded(|http| http.security_contacts = vec![contact]).await;
    let said = house.nobody().send_raw(Method::GET, path, None, &[]).await.expect(200);
    assert_eq!(said.header("content-type"), "text/plain; charset=utf-8");
    let text = said.body.as_str().unwrap();
    assert!(text.starts_with("Contact: mailto:security@example.com\nExpires: 20"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_body_never_becomes_a_large_one() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    // The beginning of a gzip stream; how much it would unfold to is never looked at.
    let packed = vec![0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03];
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let headers = [("content-type", "application/json"), ("content-encoding", coding)];
        for path in ["/api/v1/workflows", "/api/v1/workflows/import"] {
            let body = Some(packed.clone());
            let answer = ada.send_raw(Method::POST, path, body, &headers).await;
            answer.is_problem(415, "unsupported-media-type");
        }
    }
    let plain = [("content-type", "application/json"), ("content-encoding", "identity")];
    let body = greeting("Plain").to_string().into_bytes();
    ada.send_raw(Method::POST, "/api/v1/workflows", Some(body), &plain).await.expect(201);
}

/// Nothing of a name that somebody gives ends a line of an answer's head.
#[track_caller]
fn injects_nothing(answer: &Answer) {
    assert_eq!(answer.header("x-injected"), "", "{answer:?}");
    for (name, value) in &answer.headers {
        assert!(!value.as_bytes().contains(&b'\n'), "{name}: {value:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_a_caller_becomes_a_header_and_no_host_becomes_a_link() {
    let house = Deployment::start().await;
    let ada = house.sign_up("ada").await;
    let name = "x\"; filename=\"evil.exe\r\nX-Injected: yes\r\n\r\n<script>";
    let made = ada.post("/workflows", &greeting(name)).await.expect(201);
    injects_nothing(&made);
    let exported = ada.get(&format!("/workflows/{}/export?format=yaml", made.id())).await;
    injects_nothing(&exported);
    let file = exported.header("content-disposition");
    assert!(!file.contains("evil.exe\"") && !file.contains("<script>"), "{file}");
    for path in ["/nowhere%0d%0aX-Injected:%20yes", "/docs/problems/x%0d%0aX-Injected:%20yes"] {
        injects_nothing(&house.nobody().send_raw(Method::GET, path, None, &[]).await);
    }

    // Links in mails lead to the deployment's own address, whatever name it was called by.
    for header in ["host", "x-forwarded-host"] {
        let forged = [(header, "evil.example")];
        ada.send(Method::POST, "/auth/request-verification", None, &forged).await.expect(202);
    }
    let outbox = ada.get("/system/outbox").await.expect(200).body.to_string();
    assert!(outbox.contains("verify=") && !outbox.contains("evil.example"), "{outbox}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_leads_out_of_what_is_served() {
    let house = Deployment::start().await;
    for path in [
        "/page/../../Cargo.toml",
        "/page/..%2f..%2fCargo.toml",
        "/page/%2e%2e/%2e%2e/Cargo.toml",
        "/page/..\\..\\Cargo.toml",
        "/page//etc/passwd",
        "/docs/problems/..%2f..%2fREADME",
        "/docs/../../etc/passwd",
        "//etc/passwd",
    ] {
        // By hand, because a client would tidy the path up.
        let mut stream = TcpStream::connect(house.address()).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
        assert!(!answer.contains("[workspace]") && !answer.contains("root:"), "{path}: {answer}");
    }
}

/// What somebody planted in a browser before its owner signed in is worth nothing after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_in_begins_a_session_of_its_own_whatever_came_with_it() {
    let house = Deployment::start().await;
    let (ada, eve) = (house.sign_up("ada").await, house.sign_up("eve").await);
    let eves_sessions = eve.get("/auth/sessions").await.expect(200).each("id").join(" ");
    let planted = format!("ledgerline_access={0}; ledgerline_refresh={0}", eve.token);
    let login = json!({ "email": "ada@example.com", "password": PASSWORD, "cookies": true });
    let with = [("cookie", planted.as_str()), ("sec-fetch-site", "same-origin")];
    let answer = house.nobody().send(Method::POST, "/auth/login", Some(&login), &with).await;
    let answer = answer.expect(200);
    let token = answer.text("access_token").to_owned();
    assert_ne!(token, eve.token);
    let cookies: Vec<&str> = answer
        .headers
        .get_all("set-cookie")
        .iter()
        .map(|cookie| cookie.to_str().unwrap())
        .collect();
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    for cookie in cookies {
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains(&eve.token), "{cookie}");
    }
    // Two sessions of ada's, both new; eve's is still eve's and became nothing else.
    let adas = ada.get("/auth/sessions").await.expect(200);
    assert_eq!(adas.each("id").len(), 2);
    assert!(adas.each("id").iter().all(|id| !eves_sessions.contains(id)));
    assert_eq!(eve.get("/auth/me").await.expect(200).text("email"), "eve@example.com");
}
