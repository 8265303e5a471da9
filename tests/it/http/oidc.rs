//! Sign-in with another provider: the whole way over real HTTP, and everything that a provider, a browser or somebody in between can
//! get wrong.

use axum::http::{Method, StatusCode};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ledgerline_api::config::{AuthConfig, Config, OidcConfig};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    client::{Answer, Client},
    provider::{CLIENT_ID, CLIENT_SECRET, Key, Provider, signing},
};

/// The product with providers, and a browser that does what it is told.
struct House {
    client: Client,
    browser: reqwest::Client,
}

fn configured(id: &str, issuer: &str) -> OidcConfig {
    OidcConfig {
        id: id.to_owned(),
        title: format!("The {id}"),
        issuer: issuer.to_owned(),
        client_id: CLIENT_ID.to_owned(),
        client_secret: Some(SecretString::from(CLIENT_SECRET)),
        client_secret_file: None,
        allowed_domains: Vec::new(),
    }
}

/// A browser's way to a provider and back.
struct Walk {
    cookie: String,
    /// Path and query with which it comes back.
    back: String,
}

impl House {
    async fn start(oidc: Vec<OidcConfig>) -> Self {
        Self::start_with(oidc, |auth| auth).await
    }

    async fn start_with(
        oidc: Vec<OidcConfig>,
        change: impl FnOnce(AuthConfig) -> AuthConfig,
    ) -> Self {
        let client = Client::start_with(|usual| {
            let auth = change(AuthConfig { oidc, ..usual.auth });
            let mut config = Config { auth, ..usual };
            config.worker.allowed_networks = vec!["127.0.0.1/32".parse().unwrap()];
            config
        });
        let client = client.await;
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self { client, browser: browser.build().unwrap() }
    }

    async fn with(provider: &Provider) -> Self {
        Self::start(vec![configured("example", provider.issuer())]).await
    }

    /// Goes to the provider and agrees there.
    async fn walk(&self, provider: &str) -> Walk {
        let sent = self.client.get(&format!("/api/v1/auth/oidc/{provider}/start"), None).await;
        assert_eq!(sent.status, StatusCode::SEE_OTHER, "{sent:?}");
        let cookie = sent.header("set-cookie").to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        let agreed = self.browser.get(sent.header("location")).send().await.unwrap();
        let back = agreed.headers()["location"].to_str().unwrap();
        let (_, path) = back.split_once("localhost:8080").expect("it leads to the public address");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Walk { cookie, back: path.to_owned() }
    }

    /// Comes back; gives what stands behind `/#`.
    async fn come_back(&self, walk: &Walk) -> String {
        self.come_back_with(&walk.back, &walk.cookie).await
    }

    async fn come_back_with(&self, path: &str, cookie: &str) -> String {
        let cookie = [("cookie", cookie.to_owned())];
        let back = self.client.send(Method::GET, path, None, None, &cookie).await;
        assert_eq!(back.status, StatusCode::SEE_OTHER, "{back:?}");
        assert_eq!(back.header("cache-control"), "no-store");
        assert!(back.headers_named("set-cookie").is_empty(), "no session yet: {back:?}");
        back.header("location").strip_prefix("/#").expect("to the page").to_owned()
    }

    async fn go_on(&self, challenge: &str, cookie: &str) -> Answer {
        let body = json!({ "challenge": challenge });
        let cookie = [("cookie", cookie.to_owned())];
        let path = "/api/v1/auth/login/continue";
        self.client.send(Method::POST, path, None, Some(&body), &cookie).await
    }

    /// The whole way.
    async fn sign_in(&self) -> Answer {
        let walk = self.walk("example").await;
        let back = self.come_back(&walk).await;
        let challenge = back.strip_prefix("sign-in=").unwrap_or_else(|| panic!("{back}"));
        let tokens = self.go_on(challenge, &walk.cookie).await;
        assert_eq!(tokens.status, StatusCode::OK, "{tokens:?}");
        tokens
    }

    /// Goes the whole way and is sent back with a word.
    async fn fails(&self) -> String {
        let walk = self.walk("example").await;
        let back = self.come_back(&walk).await;
        back.strip_prefix("sign-in-failed=").unwrap_or_else(|| panic!("{back}")).to_owned()
    }

    /// How many people, sessions and challenges there are.
    async fn counts(&self) -> [i64; 3] {
        let row = sqlx::query!(
            r#"SELECT (SELECT count(*) FROM users) AS "users!", (SELECT count(*) FROM sessions) AS "sessions!",
                      (SELECT count(*) FROM sign_in_challenges) AS "challenges!""#
        );
        let row = row.fetch_one(self.client.pool()).await.unwrap();
        [row.users, row.sessions, row.challenges]
    }

    async fn register(&self, email: &str) -> Answer {
        let body =
            json!({ "email": email, "password": "correct horse battery", "full_name": "Ada" });
        self.client.post("/api/v1/auth/register", None, &body).await
    }
}

#[tokio::test]
async fn somebody_new_comes_in_and_is_the_same_person_the_next_time() {
    for key in [Key::rsa("k1"), Key::ed25519("k1"), Key::p256("k1")] {
        let provider = Provider::start(key).await;
        let house = House::with(&provider).await;
        let listed = house.client.get("/api/v1/auth/oidc", None).await;
        let start = "/api/v1/auth/oidc/example/start";
        assert_eq!(
            listed.body["items"],
            json!([{ "id": "example", "title": "The example", "start": start }])
        );
        let first = house.sign_in().await;
        let user = &first.body["user"];
        assert_eq!(
            (&user["email"], &user["full_name"]),
            (&json!("Grace@Example.com"), &json!("Grace Hopper"))
        );
        assert_eq!(user["email_verified"], true);
        let me = house.client.get("/api/v1/auth/me", Some(first.text("access_token"))).await;
        assert_eq!(me.body["id"], user["id"]);
        let personal =
            format!("/api/v1/workspaces/{}", user["personal_workspace_id"].as_str().unwrap());
        let shown = house.client.get(&personal, Some(first.text("access_token"))).await;
        assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
        // Who somebody is at the provider counts, not which address they have by now.
        provider.manners().email = json!("grace@new.example");
        assert_eq!(house.sign_in().await.body["user"]["id"], user["id"]);
        assert_eq!(house.counts().await, [1, 2, 0]);
    }
}

#[tokio::test]
async fn an_account_is_linked_by_an_address_that_both_sides_have_verified() {
    let provider = Provider::start(Key::rsa("k1")).await;
    let house = House::with(&provider).await;
    let grace = house.register("grace@example.com").await;
    // Somebody registered the address and never proved that it is theirs: its owner does not share an account with them.
    assert_eq!(house.fails().await, "account_unverified");
    sqlx::query!("UPDATE users SET email_verified_at = now()")
        .execute(house.client.pool())
        .await
        .unwrap();
    for unverified in [json!(false), Value::Null, json!("false"), json!(1)] {
        provider.manners().email_verified = unverified;
        assert_eq!(house.fails().await, "address_unverified");
    }
    provider.manners().email_verified = json!(true);
    provider.manners().email = Value::Null;
    assert_eq!(house.fails().await, "address_unverified");
    provider.manners().email = json!("Grace@example.com");
    assert_eq!(house.sign_in().await.body["user"]["id"], grace.body["user"]["id"]);
    // Linked once, the address is no longer asked for.
    provider.manners().email_verified = json!(false);
    assert_eq!(house.sign_in().await.body["user"]["id"], grace.body["user"]["id"]);
    // Another person of the provider is another person here.
    provider.manners().subject = "subject-2".to_owned();
    assert_eq!(house.fails().await, "address_unverified");
}

#[tokio::test]
async fn only_allowed_domains_come_in_and_nobody_new_where_registration_is_closed() {
    let provider = Provider::start(Key::rsa("k1")).await;
    let domains = vec!["example.org".to_owned()];
    let oidc = OidcConfig { allowed_domains: domains, ..configured("example", provider.issuer()) };
    let house =
        House::start_with(vec![oidc], |auth| AuthConfig { open_registration: false, ..auth }).await;
    house.register("first@example.org").await;
    for email in ["grace@example.com", "grace@sub.example.org", "grace@example.org.evil.com"] {
        provider.manners().email = json!(email);
        assert_eq!(house.fails().await, "domain", "{email}");
    }
    provider.manners().email = json!("grace@EXAMPLE.org");
    assert_eq!(house.fails().await, "closed");
    assert_eq!(house.counts().await, [1, 1, 0]);
}

#[tokio::test]
async fn a_token_that_says_something_else_lets_nobody_in() {
    let key = Key::rsa("k1");
    let provider = Provider::start(key.clone()).await;
    let house = House::with(&provider).await;
    type Change = Box<dyn Fn(&mut Value) + Send>;
    let claims: Vec<(&str, Change)> = vec![
        ("a wrong nonce", Box::new(|claims| claims["nonce"] = json!("another"))),
        ("no nonce", Box::new(|claims| claims["nonce"] = Value::Null)),
        ("a wrong audience", Box::new(|claims| claims["aud"] = json!("another"))),
        ("no audience", Box::new(|claims| claims["aud"] = json!([]))),
        (
            "two audiences and no party",
            Box::new(|claims| claims["aud"] = json!([CLIENT_ID, "another"])),
        ),
        ("another party", Box::new(|claims| claims["azp"] = json!("another"))),
        ("a wrong issuer", Box::new(|claims| claims["iss"] = json!("https://accounts.example"))),
        ("an end long ago", Box::new(|claims| claims["exp"] = json!(1_000))),
        ("no end", Box::new(|claims| claims["exp"] = Value::Null)),
        ("a beginning in the future", Box::new(|claims| claims["iat"] = json!(9_999_999_999_u64))),
        ("not yet", Box::new(|claims| claims["nbf"] = json!(9_999_999_999_u64))),
        ("nobody", Box::new(|claims| claims["sub"] = json!(""))),
    ];
    for (what, change) in claims {
        let key = key.clone();
        provider.manners().mint = Box::new(move |claims| {
            change(claims);
            key.sign(Some("k1"), claims)
        });
        assert_eq!(house.fails().await, "refused", "{what}");
    }

    assert_eq!(house.counts().await, [0; 3]);
    provider.manners().mint = signing(&key);
    house.sign_in().await;
}

#[tokio::test]
async fn a_token_that_another_key_signed_lets_nobody_in() {
    let (key, other, stranger) = (Key::rsa("k1"), Key::ed25519("k2"), Key::rsa("k1"));
    let provider = Provider::start(key.clone()).await;
    provider.manners().keys = vec![key.public(), other.public()];
    let house = House::with(&provider).await;
    let modulus = key.public()["n"].as_str().unwrap().to_owned();
    type Forge = Box<dyn Fn(&mut Value) -> String + Send>;
    let unsigned = |claims: &Value| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(&json!({ "alg": "none", "kid": "k1" })), part(claims))
    };
    let with_modulus = move |claims: &Value| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".to_owned());
        let secret = EncodingKey::from_secret(modulus.as_bytes());
        jsonwebtoken::encode(&header, claims, &secret).unwrap()
    };
    let (mine, theirs) = (key.clone(), other.clone());
    let (nameless, unknown) = (stranger.clone(), key.clone());
    let forged: Vec<(&str, Forge)> = vec![
        ("no signature", Box::new(move |claims| unsigned(claims))),
        ("the public key as a secret", Box::new(move |claims| with_modulus(claims))),
        (
            "another key under a known name",
            Box::new(move |claims| stranger.sign(Some("k1"), claims)),
        ),
        ("another key without a name", Box::new(move |claims| nameless.sign(None, claims))),
        ("an unknown name", Box::new(move |claims| unknown.sign(Some("k9"), claims))),
        (
            "the name of a key of another kind",
            Box::new(move |claims| mine.sign(Some("k2"), claims)),
        ),
        ("the other way round", Box::new(move |claims| theirs.sign(Some("k1"), claims))),
        ("no token", Box::new(|_| "no.token".to_owned())),
        ("nothing", Box::new(|_| String::new())),
    ];
    for (what, forge) in forged {
        provider.manners().mint = forge;
        assert_eq!(house.fails().await, "refused", "{what}");
    }

    assert_eq!(house.counts().await, [0; 3]);
    for good in [key, other] {
        provider.manners().mint = signing(&good);
        house.sign_in().await;
    }
}

#[tokio::test]
async fn a_key_that_is_not_the_only_one_of_its_name_or_for_something_else_lets_nobody_in() {
    let key = Key::rsa("k1");
    let provider = Provider::start(key.clone()).await;
    let house = House::with(&provider).await;
    let mut encrypting = key.public();
    encrypting["use"] = json!("enc");
    let mut otherwise = key.public();
    otherwise["alg"] = json!("RS512");
    let twins = vec![key.public(), Key::rsa("k1").public()];
    for keys in [twins, vec![encrypting], vec![otherwise], Vec::new()] {
        provider.manners().keys = keys.clone();
        house.client.clock.advance(TimeDelta::minutes(11));
        provider.manners().now = house.client.clock.now();
        assert_eq!(house.fails().await, "refused", "{keys:?}");
    }
    assert_eq!(house.counts().await, [0; 3]);
    provider.manners().keys = vec![key.public()];
    house.client.clock.advance(TimeDelta::minutes(11));
    provider.manners().now = house.client.clock.now();
    house.sign_in().await;
}

#[tokio::test]
async fn a_state_is_good_once_and_for_the_browser_that_began() {
    let provider = Provider::start(Key::rsa("k1")).await;
    let (one, two) =
        (configured("example", provider.issuer()), configured("other", provider.issuer()));
    let house = House::start(vec![one, two]).await;
    let failed = "sign-in-failed=state";
    let walk = house.walk("example").await;
    assert!(house.come_back(&walk).await.starts_with("sign-in="));
    assert_eq!(house.come_back(&walk).await, failed, "replayed");

    let (mine, theirs) = (house.walk("example").await, house.walk("example").await);
    assert_eq!(house.come_back_with(&theirs.back, &mine.cookie).await, failed, "another's");
    assert_eq!(house.come_back(&theirs).await, failed, "it was used up by that");
    assert_eq!(house.come_back_with(&mine.back, "").await, failed, "without a cookie");
    let elsewhere = house.walk("other").await;
    let moved = elsewhere.back.replace("/other/", "/example/");
    assert_eq!(house.come_back_with(&moved, &elsewhere.cookie).await, failed, "another provider's");
    let late = house.walk("example").await;
    house.client.clock.advance(TimeDelta::minutes(10));
    assert_eq!(house.come_back(&late).await, failed, "too late");
    let exchanged = provider.manners().exchanged;
    assert_eq!(exchanged, 1, "no code is exchanged without a state");
    for query in ["", "?state=lls_x", "?code=x", "?state=&code="] {
        let path = format!("/api/v1/auth/oidc/example/callback{query}");
        assert_eq!(house.come_back_with(&path, &late.cookie).await, failed, "{query}");
    }

    // What a provider says in place of a code.
    provider.manners().now = house.client.clock.now();
    let walk = house.walk("example").await;
    let state = walk.back.split("state=").nth(1).unwrap().split('&').next().unwrap();
    let denied = format!("/api/v1/auth/oidc/example/callback?error=access_denied&state={state}");
    assert_eq!(house.come_back_with(&denied, &walk.cookie).await, "sign-in-failed=denied");
    let walk = house.walk("example").await;
    let mixed = format!("{}&iss=https%3A%2F%2Fother.example", walk.back);
    assert_eq!(house.come_back_with(&mixed, &walk.cookie).await, "sign-in-failed=refused");
}

#[tokio::test]
async fn a_challenge_is_of_no_use_in_another_browser_and_good_once() {
    let provider = Provider::start(Key::rsa("k1")).await;
    let house = House::with(&provider).await;
    let walk = house.walk("example").await;
    let back = house.come_back(&walk).await;
    let challenge = back.strip_prefix("sign-in=").unwrap();
    for cookie in ["", "ledgerline_browser=llb_another"] {
        let answer = house.go_on(challenge, cookie).await;
        answer.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    }
    assert_eq!(house.go_on(challenge, &walk.cookie).await.status, StatusCode::OK);
    let again = house.go_on(challenge, &walk.cookie).await;
    again.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
    assert_eq!(house.counts().await[1], 1);
    let walk = house.walk("example").await;
    let back = house.come_back(&walk).await;
    house.client.clock.advance(TimeDelta::minutes(5));
    let late = house.go_on(back.strip_prefix("sign-in=").unwrap(), &walk.cookie).await;
    late.is_problem(StatusCode::UNAUTHORIZED, "wrong-credentials");
}

#[tokio::test]
async fn a_provider_changes_its_keys_when_it_likes() {
    let provider = Provider::start(Key::ed25519("k1")).await;
    let house = House::with(&provider).await;
    house.sign_in().await;
    house.sign_in().await;
    assert_eq!(provider.manners().keys_read, 1, "what is known is not asked again");
    provider.rotate(&Key::ed25519("k2"));
    // Names that are not known make nobody ask again and again.
    assert_eq!(house.fails().await, "refused");
    assert_eq!(provider.manners().keys_read, 1);
    house.client.clock.advance(TimeDelta::seconds(10));
    house.sign_in().await;
    assert_eq!(provider.manners().keys_read, 2);
}

#[tokio::test]
async fn a_provider_that_is_away_or_talks_nonsense_lets_nobody_in_and_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let address = listener.local_addr().unwrap();
    drop(listener);
    let house = House::start(vec![configured("example", &issuer)]).await;
    let start = "/api/v1/auth/oidc/example/start";
    let failed = |answer: &Answer| answer.header("location").to_owned();
    assert_eq!(failed(&house.client.get(start, None).await), "/#sign-in-failed=away");

    let listener = TcpListener::bind(address).await.unwrap();
    let provider = Provider::serve(listener, Key::rsa("k1"));
    house.client.clock.advance(TimeDelta::seconds(2));
    provider.manners().now = house.client.clock.now();
    house.sign_in().await;
    provider.manners().ill = Some(StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(house.fails().await, "away");
    provider.manners().ill = Some(StatusCode::BAD_REQUEST);
    assert_eq!(house.fails().await, "refused");
    provider.manners().ill = None;

    for nonsense in [
        json!({ "issuer": "https://another.example" }),
        json!({ "jwks_uri": "http://169.254.169.254/latest/meta-data" }),
        json!({ "token_endpoint": "http://10.0.0.1/token" }),
        json!({ "authorization_endpoint": "javascript:alert(1)" }),
        json!({ "jwks_uri": "file:///etc/passwd" }),
        json!({ "jwks_uri": null }),
        json!({ "padding": "x".repeat(300_000) }),
    ] {
        provider.manners().discovery = nonsense.clone();
        house.client.clock.advance(TimeDelta::minutes(11));
        let word = failed(&house.client.get(start, None).await);
        assert_eq!(
            word,
            "/#sign-in-failed=away",
            "{}",
            &nonsense.to_string()[..60.min(nonsense.to_string().len())]
        );
    }
    let unknown = house.client.get("/api/v1/auth/oidc/nobody/start", None).await;
    unknown.is_problem(StatusCode::NOT_FOUND, "not-found");
}
