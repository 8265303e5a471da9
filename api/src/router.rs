//! All routes on one screen: method and path stand at the handler (`#[utoipa::path]`), who serves what stands here.
//!
//! To add one: a handler with its doc comment in `routes/<noun>.rs`, a line here, and `UPDATE_OPENAPI=1 cargo test -p ledgerline-api
//! openapi` to write the document anew. A failure that is documented nowhere else is in every operation as its `default` answer.

use axum::{Router, http::Method, middleware};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, Ref, RefOr, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::{AppState, with_layers},
    live, page,
    parameters::{self, Parameters},
    problem::{PROBLEM_MEDIA_TYPE, Problem, ProblemBody, ProblemKind},
    routes::{
        approvals, audit, auth, connections, docs, event_triggers,
        executions::{
            self, answers, bulk, control, diff, export, fork, history, logs, nodes, output, scope,
            stuck, why,
        },
        health, hooks,
        imported_executions::{self, regressions},
        invitations, log, schedules, secrets, security_txt,
        system::{self, dispatch, projections, quarantine},
        webhooks, worker_tasks, workflows, workspaces,
    },
};

/// Where the API is.
pub const BASE_PATH: &str = "/api/v1";

/// Everything under [`BASE_PATH`].
#[expect(clippy::too_many_lines, reason = "one line a route: the list is the length")]
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(auth::register))
        .routes(routes!(auth::login))
        .routes(routes!(auth::totp::go_on))
        .routes(routes!(auth::totp::get, auth::totp::begin))
        .routes(routes!(auth::totp::confirm))
        .routes(routes!(auth::totp::recovery_codes))
        .routes(routes!(auth::totp::remove))
        .routes(routes!(auth::oidc::list))
        .routes(routes!(auth::oidc::start))
        .routes(routes!(auth::oidc::callback))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::me, auth::update_me, auth::erasure::erase_me))
        .routes(routes!(auth::erasure::erase_user))
        .routes(routes!(auth::erasure::erase_subject))
        .routes(routes!(auth::code::request_otp))
        .routes(routes!(auth::code::verify_otp))
        .routes(routes!(auth::code::password))
        .routes(routes!(auth::code::request_verification))
        .routes(routes!(auth::code::verify_email))
        .routes(routes!(auth::sessions))
        .routes(routes!(auth::end_session))
        .routes(routes!(auth::ws_ticket))
        .routes(routes!(auth::api_keys, auth::make_api_key))
        .routes(routes!(auth::end_api_key))
        .routes(routes!(auth::service_accounts::list, auth::service_accounts::create))
        .routes(routes!(auth::service_accounts::get, auth::service_accounts::delete))
        .routes(routes!(auth::service_accounts::disable))
        .routes(routes!(auth::service_accounts::enable))
        .routes(routes!(auth::service_accounts::keys, auth::service_accounts::make_key))
        .routes(routes!(auth::service_accounts::end_key))
        .routes(routes!(workspaces::list, workspaces::create))
        .routes(routes!(workspaces::get, workspaces::update, workspaces::delete))
        .routes(routes!(workspaces::restore))
        .routes(routes!(workspaces::members))
        .routes(routes!(workspaces::change_role, workspaces::remove_member))
        .routes(routes!(workspaces::leave))
        .routes(routes!(workspaces::transfer))
        .routes(routes!(invitations::invite))
        .routes(routes!(invitations::list))
        .routes(routes!(invitations::received))
        .routes(routes!(invitations::resend))
        .routes(routes!(invitations::revoke))
        .routes(routes!(invitations::accept))
        .routes(routes!(workspaces::pause))
        .routes(routes!(workspaces::resume))
        .routes(routes!(workspaces::activity))
        .routes(routes!(audit::of_workspace))
        .routes(routes!(audit::of_deployment))
        .routes(routes!(workflows::list, workflows::create))
        .routes(routes!(workflows::validate))
        .routes(routes!(workflows::import))
        .routes(routes!(workflows::templates))
        .routes(routes!(workflows::from_template))
        .routes(routes!(workflows::kinds))
        .routes(routes!(workflows::get, workflows::update, workflows::delete))
        .routes(routes!(workflows::change_status))
        .routes(routes!(workflows::publish))
        .routes(routes!(workflows::duplicate))
        .routes(routes!(workflows::versions))
        .routes(routes!(workflows::diff))
        .routes(routes!(workflows::version, workflows::name_version))
        .routes(routes!(workflows::restore))
        .routes(routes!(workflows::export))
        .routes(routes!(workflows::start))
        .routes(routes!(workflows::run_node))
        .routes(routes!(workflows::stop))
        .routes(routes!(workflows::pause))
        .routes(routes!(workflows::resume))
        .routes(routes!(executions::start, executions::list))
        .routes(routes!(stuck::stuck))
        .routes(routes!(imported_executions::import))
        .routes(routes!(imported_executions::list))
        .routes(routes!(imported_executions::get, imported_executions::delete))
        .routes(routes!(imported_executions::events))
        .routes(routes!(imported_executions::nodes))
        .routes(routes!(imported_executions::logs))
        .routes(routes!(regressions::start, regressions::list))
        .routes(routes!(regressions::get))
        .routes(routes!(bulk::begin))
        .routes(routes!(bulk::get))
        .routes(routes!(bulk::results))
        .routes(routes!(executions::get))
        .routes(routes!(control::cancel))
        .routes(routes!(control::pause))
        .routes(routes!(control::resume))
        .routes(routes!(control::retry))
        .routes(routes!(control::rerun))
        .routes(routes!(answers::approve))
        .routes(routes!(answers::signal))
        .routes(routes!(approvals::list))
        .routes(routes!(worker_tasks::poll))
        .routes(routes!(worker_tasks::complete))
        .routes(routes!(worker_tasks::fail))
        .routes(routes!(worker_tasks::heartbeat))
        .routes(routes!(fork::fork))
        .routes(routes!(control::resolve_node))
        .routes(routes!(executions::children))
        .routes(routes!(output::get))
        .routes(routes!(nodes::list))
        .routes(routes!(scope::get))
        .routes(routes!(logs::list))
        .routes(routes!(history::list))
        .routes(routes!(diff::get))
        .routes(routes!(export::get))
        .routes(routes!(why::why))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::preview))
        .routes(routes!(schedules::get))
        .routes(routes!(schedules::history))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::get))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::replay))
        .routes(routes!(webhooks::pause))
        .routes(routes!(webhooks::resume))
        .routes(routes!(webhooks::rotate))
        .routes(routes!(event_triggers::list))
        .routes(routes!(event_triggers::get))
        .routes(routes!(event_triggers::history))
        .routes(routes!(event_triggers::replay))
        .routes(routes!(event_triggers::pause))
        .routes(routes!(event_triggers::resume))
        .routes(routes!(log::events))
        .routes(routes!(log::stream))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::get, secrets::set, secrets::delete))
        .routes(routes!(secrets::rotate_key))
        .routes(routes!(connections::list, connections::create))
        .routes(routes!(connections::get, connections::update, connections::delete))
        .routes(routes!(connections::test))
        .routes(routes!(system::system))
        .routes(routes!(dispatch::pause))
        .routes(routes!(dispatch::resume))
        .routes(routes!(system::outbox::list))
        .routes(routes!(quarantine::retry))
        .routes(routes!(quarantine::skip))
        .routes(routes!(projections::get))
        .routes(routes!(projections::start_rebuild))
        .merge(live::routes())
}

/// What has a fixed path of its own; served with and without [`BASE_PATH`], documented without.
fn fixed() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(hooks::deliver))
        .routes(routes!(auth::jwks))
        .routes(routes!(security_txt::security_txt))
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::overview))
        .routes(routes!(docs::reference))
        .routes(routes!(docs::problems))
        .routes(routes!(docs::problem))
        .routes(routes!(docs::stylesheet))
        .merge(live::fixed_routes())
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ledgerline",
        description = "Event-sourced workflow automation. Failures are RFC 9457 problem documents, each with a page of its own.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ProblemBody)),
    modifiers(&Security),
    tags(
        (name = "auth", description = "Accounts, sessions and keys"),
        (name = "live", description = "Events and log lines as they happen, over WebSocket and server-sent events"),
        (name = "executions", description = "Runs of workflows: started, looked at, stopped, and run again"),
        (name = "worker-tasks", description = "Steps for external workers, in any language"),
        (name = "log", description = "Every event, in the one order in which they were recorded"),
        (name = "triggers", description = "Schedules, webhooks and event triggers: what starts workflows by itself"),
        (name = "workspaces", description = "Workspaces, their members, and what was done in them"),
        (name = "workflows", description = "Definitions of work, their versions and their lifecycle"),
        (name = "secrets", description = "Values that workflows may use and nobody may read, and the connections that need them"),
        (name = "operations", description = "Health, metrics and these documents")
    )
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An access token (`POST /auth/login`) or an API key"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        document.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    }
}

fn all() -> (Router<AppState>, utoipa::openapi::OpenApi) {
    let (without_document, _) = fixed().split_for_parts();
    let (routes, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(fixed())
        .nest(BASE_PATH, api())
        .split_for_parts();
    document_failures(&mut document);
    name_operations(&mut document);
    (routes.nest(BASE_PATH, without_document), document)
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    all().1
}

/// All routes with their layers.
pub fn router(state: &AppState) -> Router {
    let (routes, document) = all();
    let known = Parameters::of(&document);
    let demand = move |request, next| parameters::demand_known(known.clone(), request, next);
    let routes = routes
        .route_layer(middleware::from_fn(demand))
        .merge(page::routes())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method);
    with_layers(routes, state)
}

async fn no_such_path() -> Problem {
    Problem::new(ProblemKind::NotFound, "there is nothing at this path")
}

async fn no_such_method(method: Method) -> Problem {
    Problem::new(ProblemKind::MethodNotAllowed, format!("{method} is not possible at this path"))
}

/// Every operation can fail in the one form of failures.
fn document_failures(document: &mut utoipa::openapi::OpenApi) {
    let failure = ResponseBuilder::new()
        .description("A problem (RFC 9457)")
        .content(PROBLEM_MEDIA_TYPE, Content::new(Some(Ref::from_schema_name("Problem"))))
        .build();
    for item in document.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            operation
                .responses
                .responses
                .entry("default".to_owned())
                .or_insert_with(|| RefOr::T(failure.clone()));
        }
    }
}

/// Gives every operation a name of its own, as generated clients need it: what is fixed in its path, then what its handler is called where
/// that says more (`workflows_publish`, `executions_nodes_list`).
fn name_operations(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let fixed = path.trim_start_matches(BASE_PATH).split('/');
        let words: Vec<String> = fixed
            .filter(|part| !part.is_empty() && !part.starts_with('{'))
            .map(|part| part.trim_start_matches('.').replace(['-', '.'], "_"))
            .collect();
        let operations =
            [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let handler = operation.operation_id.take().unwrap_or_default();
            let says_more = words.last() != Some(&handler);
            let name = words.iter().chain(says_more.then_some(&handler));
            operation.operation_id = Some(name.cloned().collect::<Vec<_>>().join("_"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_openapi_document_is_the_present_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let present = format!("{}\n", openapi().to_pretty_json().unwrap());
        if std::env::vars().any(|(name, _)| name == "UPDATE_OPENAPI") {
            std::fs::write(path, &present).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == present,
            "api/openapi.json is stale: UPDATE_OPENAPI=1 cargo test -p ledgerline-api openapi"
        );
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references(value: &serde_json::Value, found: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(|to| to.as_str()).map(str::to_owned));
                    fields.values().for_each(|value| references(value, found));
                }
                serde_json::Value::Array(items) => {
                    items.iter().for_each(|value| references(value, found));
                }
                _ => {}
            }
        }
        let document = serde_json::to_value(openapi()).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "{}", found.len());
        for reference in found {
            let there = document.pointer(reference.trim_start_matches('#'));
            assert!(there.is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let mut names = std::collections::BTreeMap::new();
        for (path, item) in openapi().paths.paths {
            for operation in
                [item.get, item.post, item.put, item.patch, item.delete].into_iter().flatten()
            {
                let name = operation.operation_id.unwrap();
                let same = names.insert(name.clone(), path.clone());
                assert_eq!(same, None, "{path} is {name} too");
            }
        }
        for name in ["workflows_publish", "workflows_list", "executions_nodes_list"] {
            assert!(names.contains_key(name), "{name} in {names:?}");
        }
    }

    #[test]
    fn every_operation_says_how_it_fails_and_what_it_is() {
        for (path, item) in openapi().paths.paths {
            for operation in
                [item.get, item.post, item.put, item.patch, item.delete].into_iter().flatten()
            {
                assert!(operation.responses.responses.contains_key("default"), "{path}");
                assert!(operation.summary.is_some(), "{path} has no doc comment");
                assert!(operation.tags.is_some_and(|tags| tags.len() == 1), "{path} has no tag");
            }
        }
    }
}
