//! `action.file`: reads and writes in the workspace's own file space.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ledgerline_domain::{
    execution::{ErrorKind, NodeError},
    node::{FileOperation, ResolvedFile},
};
use serde_json::{Value, json};

use super::Try;
use crate::{
    file_space::{FileError, FileSpace},
    values::failure,
};

pub(super) async fn perform(asked: ResolvedFile, of: &Try) -> Result<Value, NodeError> {
    let space = FileSpace::new(&of.equipment.settings.files_dir, of.workspace);
    let content = asked.content.as_deref().unwrap_or_default().as_bytes();
    let path = asked.path.as_str();
    let done = match asked.operation {
        FileOperation::Read => space.read(path).await.map(|bytes| read(path, bytes)),
        FileOperation::Write => {
            space.write(path, content).await.map(|size| json!({"path": path, "size_bytes": size}))
        }
        FileOperation::Append => {
            let turns = &of.equipment.appends;
            space
                .append(path, content, turns)
                .await
                .map(|size| json!({"path": path, "size_bytes": size}))
        }
        FileOperation::List => space
            .list(path)
            .await
            .map(|(files, truncated)| json!({"files": files, "truncated": truncated})),
        FileOperation::Delete => {
            space.delete(path).await.map(|deleted| json!({"path": path, "deleted": deleted}))
        }
    };
    done.map_err(|error| recorded(&error))
}

/// Text as text; anything else in base64, because a JSON string can't hold it.
fn read(path: &str, bytes: Vec<u8>) -> Value {
    let size = bytes.len();
    match String::from_utf8(bytes) {
        Ok(text) => json!({"path": path, "size_bytes": size, "content": text}),
        Err(error) => {
            json!({"path": path, "size_bytes": size, "content_base64": BASE64_STANDARD.encode(error.as_bytes())})
        }
    }
}

fn recorded(error: &FileError) -> NodeError {
    let kind = match error {
        FileError::Path { .. } => ErrorKind::Validation,
        FileError::NotFound(_) | FileError::NotAFile(_) | FileError::TooLarge { .. } => {
            ErrorKind::Permanent
        }
        FileError::DiskFull | FileError::System(_) => ErrorKind::Transient,
    };
    let message = match error {
        FileError::System(source) => format!("{error}: {source}"),
        FileError::Path { .. }
        | FileError::NotFound(_)
        | FileError::NotAFile(_)
        | FileError::TooLarge { .. }
        | FileError::DiskFull => error.to_string(),
    };
    failure(kind, message)
}
