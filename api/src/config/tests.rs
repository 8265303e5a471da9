//! A configuration from its three sources, and what of it is refused.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
}

fn load(file: &str, flags: &[&str]) -> Result<Config, ConfigError> {
    let folder = std::env::temp_dir().join(format!("ledgerline-config-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("ledgerline.toml");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let arguments = ["ledgerline", "--config", &path].into_iter().chain(flags.iter().copied());
    let config = Config::load(Cli::parse_from(arguments).config);
    std::fs::remove_dir_all(&folder).unwrap();
    config
}

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let config = load(
        &format!(
            "[http]\nlisten = '127.0.0.1:9000'\nmax_in_flight = 7\n[auth]\nmaster_key = '{KEY}'"
        ),
        &["--listen", "127.0.0.1:9001", "--database-url", "postgres://db/x"],
    )
    .unwrap();
    assert_eq!(config.http.listen.port(), 9001);
    assert_eq!(config.http.max_in_flight, 7);
    assert_eq!(config.auth.access_token_ttl_s, 900);
    assert_eq!(config.roles, Role::ALL);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = load(
        "[http]\nrequest_timeout_ms = 1\nallowed_origins = ['https://x/path']\n[auth]\nmaster_key = 'short'",
        &["--database-url", "mysql://db"],
    )
    .unwrap_err();
    let ConfigError::Invalid(wrong) = error else { panic!("{error}") };
    assert_eq!(wrong.len(), 4, "{wrong:?}");
}

#[test]
fn the_master_key_may_be_given_by_itself_or_in_a_file() {
    let database = ["--database-url", "postgres://db/x"];
    let given = load("", &[&database[..], &["--master-key", KEY]].concat()).unwrap();
    assert!(given.auth.master_key.is_some_and(|key| is_key(&key)));
    assert!(matches!(load("", &database), Err(ConfigError::Invalid(_))));
    let missing = load("", &["--master-key-file", "/nowhere/master.key"]);
    assert!(matches!(missing, Err(ConfigError::Unreadable { .. })));
}

#[test]
fn a_setting_that_does_not_exist_is_refused() {
    assert!(matches!(load("[http]\nlisten_on = 1", &[]), Err(ConfigError::Malformed { .. })));
}

#[test]
fn providers_are_checked_and_their_secrets_may_stand_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "of the client\n").unwrap();
    let provider = |id: &str, issuer: &str| {
        format!(
            "[[auth.oidc]]\nid = '{id}'\ntitle = 'T'\nissuer = '{issuer}'\nclient_id = 'c'\nclient_secret_file = '{}'\n",
            path.display()
        )
    };
    let load = |providers: &str| {
        let text = format!("[auth]\nmaster_key = '{KEY}'\n{providers}");
        load(&text, &["--database-url", "postgres://user@db/x"])
    };
    let good = provider("example", "https://accounts.example");
    let config = load(&good).unwrap();
    let secret = config.auth.oidc[0].client_secret.as_ref().unwrap();
    assert_eq!(secret.expose_secret(), "of the client");
    for bad in [
        provider("Example", "https://accounts.example"),
        provider("example", "http://accounts.example"),
        provider("example", "https://accounts.example?x=1"),
        provider("example", "accounts.example"),
        format!("{good}{good}"),
    ] {
        assert!(load(&bad).is_err(), "{bad}");
    }
    assert!(load(&provider("dev", "http://localhost:9000/realm")).is_ok());
}

#[test]
fn secrets_do_not_print() {
    let config = load(
        &format!("[auth]\nmaster_key = '{KEY}'"),
        &["--database-url", "postgres://user:hunter2@db/x"],
    )
    .unwrap();
    let printed = format!("{config:?}");
    assert!(!printed.contains("hunter2") && !printed.contains(KEY), "{printed}");
}
