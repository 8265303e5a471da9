//! Every bound of the domain, with its reason.
//!
//! A bound that is missing here is a bug: whatever a person or a program may send has an end, so that one workflow cannot take the
//! memory or the time of all others.

/// The largest node output inside an event. Larger ones are blobs, so that the log, the relay and every subscriber stay fast.
pub const MAX_INLINE_OUTPUT_BYTES: usize = 256 * 1024;

/// The input of a run. It stands in the run's first event, and an event must fit in 512 KiB with its metadata.
pub const MAX_INPUT_BYTES: usize = 448 * 1024;

/// Names of workspaces and workflows: what a list can show, and an index can hold.
pub const MAX_NAME_CHARS: usize = 255;
/// Descriptions: a page of text, carried in every draft.
pub const MAX_DESCRIPTION_CHARS: usize = 10_000;
/// Tags of one workflow: more are not a way to find it.
pub const MAX_TAGS: usize = 32;
/// One tag.
pub const MAX_TAG_CHARS: usize = 64;
/// Members of one workspace: its whole membership is one state that every command on it folds.
pub const MAX_MEMBERS: usize = 10_000;
/// Open invitations of one workspace: each is a part of that state, and a mail to somebody who did not ask for it.
pub const MAX_INVITATIONS: usize = 100;
/// For how many days the deletion of a workspace can be taken back: somebody who is away for a month still finds it.
pub const DELETION_GRACE_DAYS: i64 = 30;
/// Service accounts of one workspace: programs that a team looks after, listed in one answer.
pub const MAX_SERVICE_ACCOUNTS: usize = 200;
/// Secrets of one workspace: all of its vault is one state that every run with a secret folds.
pub const MAX_SECRETS: usize = 1_000;
/// Connections of one workspace, for the same reason.
pub const MAX_CONNECTIONS_OF_WORKSPACE: usize = 200;
/// The value of a secret: a key, a certificate or a token, not a file.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;
/// The shortest value of a secret: a shorter one is part of many words, so masking it would take ordinary text apart.
pub const MIN_SECRET_BYTES: usize = 4;
/// The label of a version: as long as a tag, since it is shown as one.
pub const MAX_LABEL_CHARS: usize = 64;
/// The note of a version: a paragraph. The notes of all versions are in the workflow's state.
pub const MAX_NOTE_CHARS: usize = 2_000;
/// Versions of one workflow that its state keeps: a run may be pinned to any of them.
pub const MAX_VERSIONS: usize = 10_000;

/// The text of a definition: what a graph of [`MAX_NODES`] nodes needs, and what a request may carry.
pub const MAX_DEFINITION_BYTES: usize = 8 * 1024 * 1024;
/// The text of a definition that its event holds; a larger one is a blob. An event must fit in 512 KiB with its metadata.
pub const MAX_INLINE_DEFINITION_BYTES: usize = 448 * 1024;
/// Nodes of a definition, those of loop bodies included: what is validated within a request and drawn in the editor.
pub const MAX_NODES: usize = 10_000;
/// Connections of a definition.
pub const MAX_CONNECTIONS: usize = 40_000;
/// Characters of a node's id, since it is part of every node path and event.
pub const MAX_NODE_ID_CHARS: usize = 64;
/// Loops inside loops: each level multiplies the runs of the one below.
pub const MAX_LOOP_DEPTH: usize = 3;
/// Problems that one validation reports; nobody reads more, and an answer stays small.
pub const MAX_PROBLEMS: usize = 200;
/// Cases of a switch.
pub const MAX_SWITCH_CASES: usize = 100;
/// Header, query and environment entries of one node.
pub const MAX_ENTRIES: usize = 100;
/// The code of one script: it is part of every run's record of the node.
pub const MAX_SCRIPT_BYTES: usize = 64 * 1024;
/// Arguments of one command.
pub const MAX_ARGUMENTS: usize = 256;

/// The source of a CEL expression; parsing is superlinear in the worst case.
pub const MAX_EXPRESSION_BYTES: usize = 4 * 1024;
/// Macros (`map`, `filter`, `all`, …) inside macros: each level is one more power of the list's length.
pub const MAX_MACRO_NESTING: usize = 2;
/// Depth of an expression's syntax tree: evaluation recurses over it on a thread's stack.
pub const MAX_EXPRESSION_DEPTH: usize = 64;
/// Operators, calls and path steps around one place of an expression: a chain of them is as deep a tree as it is long.
pub const MAX_EXPRESSION_STEPS: usize = 256;
/// Brackets inside brackets of one `{{ … }}`; its parser recurses more than that of expressions.
pub const MAX_TEMPLATE_DEPTH: usize = 32;
/// Work of one evaluation: one per iteration of a macro, and one per byte that `+` or a list or map literal makes.
pub const MAX_EXPRESSION_COST: u64 = 4 * 1024 * 1024;
/// What one evaluation may read of its scope, as JSON text.
pub const MAX_EVALUATION_INPUT_BYTES: usize = 4 * 1024 * 1024;
/// The source of one template, i.e. of one string of a configuration.
pub const MAX_TEMPLATE_BYTES: usize = 64 * 1024;
/// `{{ … }}` parts of one template.
pub const MAX_TEMPLATE_PARTS: usize = 256;
/// What a template may produce.
pub const MAX_TEMPLATE_OUTPUT_BYTES: usize = 1024 * 1024;
/// Operators of one `{{ … }}` that can make a value larger than its parts (`~`, `+`, `*`).
pub const MAX_TEMPLATE_GROWTH: usize = 32;
/// Virtual-machine instructions of one `{{ … }}`.
pub const TEMPLATE_FUEL: u64 = 50_000;
/// Nesting inside one `{{ … }}`.
pub const TEMPLATE_RECURSION: usize = 64;
/// Nesting of a JSON value anywhere: deeper ones break readers later.
pub const MAX_JSON_DEPTH: usize = 64;

/// Retries of one node.
pub const MAX_RETRIES: u32 = 100;
/// The longest pause between two tries: a day.
pub const MAX_BACKOFF_MS: u64 = 24 * 60 * 60 * 1000;
/// Explicit pauses of one retry policy.
pub const MAX_BACKOFF_STEPS: usize = 100;
/// The longest a node may run: a day.
pub const MAX_NODE_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest a run may take: a year, so that a run that waits for months is possible and one that waits for ever is not.
pub const MAX_EXECUTION_TIMEOUT_MS: u64 = 365 * 24 * 60 * 60 * 1000;
/// The longest `logic.wait`: a year.
pub const MAX_WAIT_MS: u64 = 365 * 24 * 60 * 60 * 1000;
/// Nodes of one run that run at once.
pub const MAX_PARALLELISM: u32 = 100;
/// Runs of one workflow, or of one workspace, at once.
pub const MAX_CONCURRENCY: u32 = 10_000;
/// Runs of one workflow that no worker ever took: each is kept in memory by whoever leads dispatch until it runs.
pub const MAX_QUEUED: u32 = 100_000;
/// Why somebody did something, in their own words: a paragraph that is shown beside it.
pub const MAX_REASON_CHARS: usize = 1_000;
/// Events that operators left out of read models: each was looked at by a person, and all are in the deployment's state.
pub const MAX_SKIPPED_EVENTS: usize = 1_000;
/// Items of a `logic.for_each`: each is at least one event.
pub const MAX_LOOP_ITEMS: usize = 10_000;
/// Iterations of a `logic.while`: each is at least one event.
pub const MAX_LOOP_ITERATIONS: u32 = 10_000;
/// The largest response of `action.http` that a node may ask for.
pub const MAX_RESPONSE_BYTES: u64 = 16 * 1024 * 1024;
/// The text of a statement of `action.sql`, in characters.
pub const MAX_STATEMENT_CHARS: usize = 64 * 1024;
/// Rows that an `action.sql` may ask for; their size has a bound of its own.
pub const MAX_SQL_ROWS: u32 = 10_000;
/// Recipients of one `action.email`: more is a mailing list's work, and servers refuse it.
pub const MAX_RECIPIENTS: usize = 50;
/// Files attached to one `action.email`.
pub const MAX_ATTACHMENTS: usize = 10;
/// All of one message by `action.email` with its files, before it is encoded; few servers take more.
pub const MAX_EMAIL_BYTES: usize = 10 * 1024 * 1024;
/// The largest output of `action.command` that a node may ask for.
pub const MAX_COMMAND_OUTPUT_BYTES: u64 = 16 * 1024 * 1024;

/// Outcomes that a new execution takes over from another one: about what a run of the largest graph, or of the largest loop, has.
pub const MAX_CARRIED_NODES: usize = 20_000;
/// Their text with that of the variables, large outputs not counted, which are carried by reference: one append holds all of it.
pub const MAX_CARRIED_BYTES: usize = 8 * 1024 * 1024;

/// Events of each of two runs that are compared: what is read and held within one request.
pub const MAX_COMPARED_EVENTS: usize = 200_000;
/// Values of each of two runs that are held while they are compared; of the others it is only known whether they differ.
pub const MAX_COMPARED_BYTES: usize = 8 * 1024 * 1024;
/// Places at which two values differ that are named: nobody reads more.
pub const MAX_VALUE_CHANGES: usize = 20;
/// A value at such a place that is shown; a larger one is named by its size.
pub const MAX_VALUE_CHANGE_BYTES: usize = 1024;

const _: () = assert!(MAX_MACRO_NESTING < MAX_EXPRESSION_DEPTH);
const _: () = assert!(MAX_EVALUATION_INPUT_BYTES >= MAX_INLINE_OUTPUT_BYTES);

/// Triggers and child runs between a run and a person, so that workflows that start each other come to an end.
pub const MAX_TRIGGER_DEPTH: u16 = 16;
/// Claims in a row that may be lost without progress: a run that kills its workers must not kill them for ever.
pub const MAX_LOST_CLAIMS: u32 = 5;
/// Actions that a plan gives at once, so that one append stays small however wide the graph is.
pub const MAX_PLANNED_ACTIONS: usize = 256;
/// Nodes that are named when it is asked what a run waits for; the others are counted.
pub const MAX_NAMED_WAITS: usize = 20;

/// Nodes of one definition that name their undo: the pairs stand in the first event of every run.
pub const MAX_UNDOES: usize = 100;
/// Nodes that are named when a run ends and they were not undone; the others are counted. They stand in the event of the end.
pub const MAX_NAMED_NOT_UNDONE: usize = 20;
/// Characters of the message of each of them; the event of the failure has all of it.
pub const MAX_NOT_UNDONE_CHARS: usize = 1_000;

/// Triggers of one workflow: each is a stream of its own, brought in line at every publication.
pub const MAX_TRIGGERS: usize = 32;

/// The text of a cron pattern.
pub const MAX_CRON_CHARS: usize = 255;

/// The shortest catch-up window: a busy system may be some seconds late, and that is no downtime.
pub const MIN_CATCH_UP_WINDOW_MS: u64 = 10_000;

/// The longest catch-up window, 31 days: what is caught up with after that is not what anybody waits for.
pub const MAX_CATCH_UP_WINDOW_MS: u64 = 31 * 24 * 60 * 60 * 1000;

/// The usual catch-up window: a restart loses no fire.
pub const DEFAULT_CATCH_UP_WINDOW_MS: u64 = 60_000;

/// The most that a fire is put off: an hour spreads whatever comes due at midnight.
pub const MAX_JITTER_MS: u64 = 60 * 60 * 1000;

/// Missed fire times that are counted one by one; a schedule by the second misses millions in a month.
pub const MAX_COUNTED_MISSED: u32 = 1_000;

/// The longest time for which a signature is good: a day, since whoever copied a delivery may send it again until then.
pub const MAX_REPLAY_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;

/// The usual time for which a signature is good, as Stripe has it.
pub const DEFAULT_REPLAY_WINDOW_MS: u64 = 5 * 60 * 1000;

/// The name of a delivery, as its sender gives it.
pub const MAX_DELIVERY_ID_CHARS: usize = 255;

/// The constant that a schedule gives its runs.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// Fields of the form of an approval, and options of one of them: what a person would fill in.
pub const MAX_FORM_FIELDS: usize = 50;
/// Options of a choice.
pub const MAX_FORM_OPTIONS: usize = 200;
/// Buttons of an approval: each is a branch.
pub const MAX_FORM_BUTTONS: usize = 20;
/// People that an approval names, beside roles.
pub const MAX_APPROVERS: usize = 100;
/// The values of a form as JSON: they are kept in the event of the answer and in the output of the node.
pub const MAX_FORM_BYTES: usize = 64 * 1024;
/// Values that one body may mark as personal: each is sealed by itself.
pub const MAX_MARKED_VALUES: usize = 200;
/// The name by which a workspace knows whom a value is about.
pub const MAX_SUBJECT_CHARS: usize = 200;
/// What somebody may write beside an answer.
pub const MAX_COMMENT_CHARS: usize = 10_000;
/// The title, description and labels of an approval after evaluation: every run that waits for one holds them.
pub const MAX_APPROVAL_TEXT_CHARS: usize = 10_000;
/// The name of a signal.
pub const MAX_SIGNAL_NAME_CHARS: usize = 128;
/// What may come with a signal.
pub const MAX_SIGNAL_BYTES: usize = 64 * 1024;
/// Signals of one run that nobody waits for yet.
pub const MAX_KEPT_SIGNALS: usize = 100;
/// The same in bytes: the fold of the run holds them.
pub const MAX_KEPT_SIGNAL_BYTES: usize = 1024 * 1024;
/// The shortest time after which an external worker counts as lost: heartbeats cross a network.
pub const MIN_HEARTBEAT_TIMEOUT_MS: u64 = 1_000;
/// The longest: a day.
pub const MAX_HEARTBEAT_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;
/// The name that an external worker gives itself.
pub const MAX_WORKER_NAME_CHARS: usize = 255;

const _: () = assert!(MAX_SIGNAL_BYTES <= MAX_INLINE_OUTPUT_BYTES);
const _: () = assert!(MAX_FORM_BYTES + 8 * MAX_COMMENT_CHARS < MAX_INLINE_OUTPUT_BYTES);
