//! A small OpenID Connect provider for tests: real HTTP, real keys, and told how to misbehave.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{self, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use axum::{
    Form, Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

/// What the client is known by.
pub(crate) const CLIENT_ID: &str = "ledgerline & co";
/// What only the client knows.
pub(crate) const CLIENT_SECRET: &str = "a secret: with a colon";

/// A key of the provider.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) kid: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) private: EncodingKey,
}

impl Key {
    pub(crate) fn rsa(kid: &str) -> Self {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("DER");
        let text = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let private = EncodingKey::from_rsa_pem(pem.as_bytes()).expect("a PEM");
        Self { kid: kid.to_owned(), algorithm: Algorithm::RS256, private }
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().expect("a key");
        let der = pair.to_pkcs8v1().expect("DER");
        let private = EncodingKey::from_ed_der(der.as_ref());
        Self { kid: kid.to_owned(), algorithm: Algorithm::EdDSA, private }
    }

    pub(crate) fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let der = pair.to_pkcs8v1().expect("DER");
        let private = EncodingKey::from_ec_der(der.as_ref());
        Self { kid: kid.to_owned(), algorithm: Algorithm::ES256, private }
    }

    /// Its public half, as a provider shows it.
    pub(crate) fn public(&self) -> Value {
        let named = json!({ "kid": self.kid, "use": "sig" });
        let mut key = match self.algorithm {
            // The library does not find the public half of every form of an Ed25519 key.
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::from_pkcs8(self.private.as_bytes()).expect("a key");
                let x = URL_SAFE_NO_PAD.encode(KeyPair::public_key(&pair).as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x })
            }
            algorithm => {
                let key = Jwk::from_encoding_key(&self.private, algorithm);
                serde_json::to_value(key.expect("a public half")).expect("JSON")
            }
        };
        for (name, value) in named.as_object().expect("an object") {
            key[name] = value.clone();
        }
        key
    }

    /// A token signed with it under any header.
    pub(crate) fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.private).expect("a token")
    }
}

/// Makes the token that the provider answers with, from the claims that a good one has.
pub(crate) type Mint = Box<dyn Fn(&mut Value) -> String + Send>;

/// What the provider does, for a test to change.
pub(crate) struct Manners {
    pub(crate) keys: Vec<Value>,
    pub(crate) mint: Mint,
    /// Who is at the browser.
    pub(crate) subject: String,
    pub(crate) email: Value,
    pub(crate) email_verified: Value,
    /// The clock of the provider.
    pub(crate) now: DateTime<Utc>,
    /// Put over the discovery document.
    pub(crate) discovery: Value,
    /// How every request but discovery is answered, for one that is ill.
    pub(crate) ill: Option<StatusCode>,
    /// How often its keys were read.
    pub(crate) keys_read: usize,
    /// How often a code was exchanged.
    pub(crate) exchanged: usize,
    codes: HashMap<String, HashMap<String, String>>,
}

struct Shared {
    issuer: String,
    manners: Mutex<Manners>,
}

/// A running provider; it ends with this.
pub(crate) struct Provider {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Provider {
    /// Starts one that behaves, with one key.
    pub(crate) async fn start(key: Key) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve(listener, key)
    }

    /// Starts one where somebody listens already.
    pub(crate) fn serve(listener: TcpListener, key: Key) -> Self {
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let manners = Manners {
            keys: vec![key.public()],
            mint: signing(&key),
            subject: "subject-1".to_owned(),
            email: json!("Grace@Example.com"),
            email_verified: json!(true),
            now: Utc::now(),
            discovery: json!({}),
            ill: None,
            keys_read: 0,
            exchanged: 0,
            codes: HashMap::new(),
        };
        let shared = Arc::new(Shared { issuer, manners: Mutex::new(manners) });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/keys", get(keys))
            .with_state(Arc::clone(&shared));
        #[expect(clippy::disallowed_methods, reason = "it is stopped with the provider")]
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self { shared, serving }
    }

    /// Its name.
    pub(crate) fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    /// What it does.
    pub(crate) fn manners(&self) -> MutexGuard<'_, Manners> {
        self.shared.manners.lock().expect("no test panics with it")
    }

    /// Has it sign with one key and show only that.
    pub(crate) fn rotate(&self, key: &Key) {
        let mut manners = self.manners();
        manners.keys = vec![key.public()];
        manners.mint = signing(key);
    }
}

/// Good tokens.
pub(crate) fn signing(key: &Key) -> Mint {
    let key = key.clone();
    Box::new(move |claims| key.sign(Some(&key.kid), claims))
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let issuer = &shared.issuer;
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/keys"),
        "response_types_supported": ["code"],
    });
    let over = shared.manners.lock().expect("whole").discovery.clone();
    for (name, value) in over.as_object().expect("an object") {
        document[name] = value.clone();
    }
    Json(document)
}

async fn keys(State(shared): State<Arc<Shared>>) -> Response {
    let mut manners = shared.manners.lock().expect("whole");
    manners.keys_read += 1;
    match manners.ill {
        Some(status) => status.into_response(),
        None => Json(json!({ "keys": manners.keys })).into_response(),
    }
}

/// Somebody agrees at once.
async fn authorize(
    State(shared): State<Arc<Shared>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Redirect {
    assert_eq!(asked["response_type"], "code");
    assert_eq!(asked["client_id"], CLIENT_ID);
    assert_eq!(asked["code_challenge_method"], "S256");
    assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
    let code = Uuid::now_v7().to_string();
    let back = format!(
        "{}?code={code}&state={}&session_state=of+the+provider",
        asked["redirect_uri"], asked["state"]
    );
    shared.manners.lock().expect("whole").codes.insert(code, asked);
    Redirect::to(&back)
}

async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let mut manners = shared.manners.lock().expect("whole");
    if let Some(status) = manners.ill {
        return status.into_response();
    }
    manners.exchanged += 1;
    let refused = || (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" })));
    let Some(asked) = manners.codes.remove(&form["code"]) else {
        return refused().into_response();
    };
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    let same =
        challenge == asked["code_challenge"] && form["redirect_uri"] == asked["redirect_uri"];
    // What `application/x-www-form-urlencoded` makes of the two.
    let pair = "ledgerline+%26+co:a+secret%3A+with+a+colon";
    let basic = format!("Basic {}", STANDARD.encode(pair));
    let authorized =
        headers.get(header::AUTHORIZATION).is_some_and(|value| value == basic.as_str());
    if !same || !authorized || form["grant_type"] != "authorization_code" {
        return refused().into_response();
    }
    let now = manners.now.timestamp();
    let mut claims = json!({
        "iss": shared.issuer, "sub": manners.subject, "aud": CLIENT_ID, "nonce": asked["nonce"],
        "exp": now + 300, "iat": now, "name": "Grace Hopper",
        "email": manners.email, "email_verified": manners.email_verified,
    });
    let token = (manners.mint)(&mut claims);
    Json(json!({ "access_token": "none", "token_type": "Bearer", "id_token": token }))
        .into_response()
}
