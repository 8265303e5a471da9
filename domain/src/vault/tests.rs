use super::*;
use crate::testing::given;
use uuid::Uuid;

fn name(text: &str) -> SecretName {
    text.parse().expect("a name")
}

fn id(number: u128) -> ConnectionId {
    ConnectionId(Uuid::from_u128(number))
}

fn set(text: &str, version: i32) -> VaultEvent {
    SecretSet { name: name(text), version }.into()
}

fn created(number: u128, name: &str) -> VaultEvent {
    let kind = ConnectionKind::Postgres;
    ConnectionCreated { connection_id: id(number), name: name.to_owned(), kind, version: 1 }.into()
}

fn change(number: u128, name: &str, kind: ConnectionKind, version: i32) -> VaultCommand {
    VaultCommand::ChangeConnection { id: id(number), name: name.to_owned(), kind, version }
}

#[test]
fn a_secret_is_set_again_under_a_later_version_only() {
    let set_it = |version| VaultCommand::SetSecret { name: name("key"), version };
    given::<Vault>([]).when(&set_it(1)).then([set("key", 1)]);
    given::<Vault>([set("key", 1)]).when(&set_it(4)).then([set("key", 4)]);
    given::<Vault>([set("key", 4)]).when(&set_it(4)).rejected(&VaultRejection::Overtaken);
    given::<Vault>([set("key", 4)]).when(&set_it(3)).rejected(&VaultRejection::Overtaken);
}

#[test]
fn a_secret_that_is_not_there_is_not_deleted() {
    let delete = VaultCommand::DeleteSecret { name: name("key") };
    given::<Vault>([set("key", 1)])
        .when(&delete)
        .then([SecretDeleted { name: name("key") }.into()])
        .when(&delete)
        .rejected(&VaultRejection::SecretNotFound);
}

#[test]
fn a_vault_is_bounded() {
    let full = (0..limits::MAX_SECRETS).map(|number| set(&format!("s{number}"), 1));
    let another = VaultCommand::SetSecret { name: name("another"), version: 1 };
    let given = given::<Vault>(full);
    given.clone().when(&another).rejected(&VaultRejection::TooManySecrets);
    let there = VaultCommand::SetSecret { name: name("s7"), version: 2 };
    given.when(&there).then([set("s7", 2)]);
}

#[test]
fn a_name_stands_for_one_connection() {
    let kind = ConnectionKind::Smtp;
    let create = |number, name: &str| VaultCommand::CreateConnection {
        id: id(number),
        name: name.to_owned(),
        kind,
        version: 1,
    };
    let given = given::<Vault>([created(1, "orders")]);
    given.clone().when(&create(2, "orders")).rejected(&VaultRejection::ConnectionNameTaken);
    given.clone().when(&create(2, "")).rejected(&VaultRejection::ConnectionNameInvalid);
    given.clone().when(&create(2, "a b")).rejected(&VaultRejection::ConnectionNameInvalid);
    let made =
        ConnectionCreated { connection_id: id(2), name: "mail".to_owned(), kind, version: 1 };
    let both = given.when(&create(2, "mail")).then([made.into()]);
    let rename = change(2, "orders", ConnectionKind::Smtp, 2);
    both.when(&rename).rejected(&VaultRejection::ConnectionNameTaken);
}

#[test]
fn a_connection_keeps_its_kind_and_its_name_may_change() {
    let given = given::<Vault>([created(1, "orders")]);
    let postgres = ConnectionKind::Postgres;
    let changed = ConnectionChanged { connection_id: id(1), name: "sales".to_owned(), version: 2 };
    let after = given.clone().when(&change(1, "sales", postgres, 2)).then([changed.into()]);
    let state = after.state();
    let (found, kept) = state.connection_named("sales").expect("there");
    assert_eq!((found, kept.version, kept.created_in, kept.changed_in), (id(1), 2, 1, 2));
    assert!(state.connection_named("orders").is_none());
    let other = change(1, "orders", ConnectionKind::Smtp, 2);
    given.clone().when(&other).rejected(&VaultRejection::ConnectionKindChanged);
    given.clone().when(&change(1, "orders", postgres, 1)).rejected(&VaultRejection::Overtaken);
    given.when(&change(9, "x", postgres, 2)).rejected(&VaultRejection::ConnectionNotFound);
}

#[test]
fn only_what_needs_no_quotes_is_a_name() {
    let longest = "a".repeat(64);
    for text in ["a", "_", "API_KEY_2", longest.as_str()] {
        assert!(text.parse::<SecretName>().is_ok(), "{text}");
    }
    let longer = "a".repeat(65);
    for text in ["", "2a", "a-b", "a.b", "a b", "ä", "a\n", longer.as_str()] {
        assert_eq!(text.parse::<SecretName>(), Err(NotASecretName), "{text}");
    }
}

#[test]
fn settings_that_can_lead_nowhere_are_refused_by_field() {
    let postgres = |host: &str, port, tls| {
        ConnectionSettings::Postgres(PostgresSettings {
            host: host.to_owned(),
            port,
            database: "orders".to_owned(),
            user: "app".to_owned(),
            tls,
        })
    };
    assert_eq!(postgres("db.example", 5432, TlsMode::Verify).problems(), []);
    assert_eq!(postgres("::1", 1, TlsMode::Off).problems(), []);
    let table = [
        (postgres("", 5432, TlsMode::Off), "host"),
        (postgres("/var/run/postgresql", 5432, TlsMode::Off), "host"),
        (postgres("a@b", 5432, TlsMode::Off), "host"),
        (postgres("db", 0, TlsMode::Off), "port"),
        (postgres("db", 5432, TlsMode::Implicit), "tls"),
    ];
    for (settings, field) in table {
        let fields: Vec<_> = settings.problems().iter().map(|wrong| wrong.field).collect();
        assert_eq!(fields, [field]);
    }
    let smtp = ConnectionSettings::Smtp(SmtpSettings {
        host: "mail".to_owned(),
        port: 25,
        user: Some("a\r\nb".to_owned()),
        tls: TlsMode::Implicit,
        from: "nobody".to_owned(),
    });
    let fields: Vec<_> = smtp.problems().iter().map(|wrong| wrong.field).collect();
    assert_eq!(fields, ["user", "from"]);
}
