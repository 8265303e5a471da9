//! Many new rows at once, by COPY in its binary form: about half of what the same rows cost Postgres by INSERT.
//!
//! Only for rows that are known not to be in the table, because COPY knows no conflict.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// Fewer rows than this are inserted like changed ones: a COPY is a round trip more and is planned anew each time.
const WORTH_IT: usize = 256;

/// What is sent at once, about: enough for few system calls, and little memory.
const PIECE_BYTES: usize = 256 * 1024;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: [u8; 2] = (-1_i16).to_be_bytes();

/// Microseconds from 1970 to 2000, where Postgres begins to count.
const EPOCH: i64 = 946_684_800_000_000;

/// A value of a column.
pub(crate) trait Field {
    /// Appends its length and its bytes.
    fn put(&self, to: &mut Vec<u8>);
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    // A value comes from an event, whose payload is far below this.
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(bytes);
}

macro_rules! plain {
    ($($of:ty: |$value:ident| $bytes:expr;)+) => {
        $(impl Field for $of {
            fn put(&self, to: &mut Vec<u8>) {
                let $value = self;
                put_bytes(to, $bytes);
            }
        })+
    };
}

plain! {
    i32: |value| &value.to_be_bytes();
    i64: |value| &value.to_be_bytes();
    bool: |value| &[u8::from(*value)];
    Uuid: |value| value.as_bytes();
    str: |value| value.as_bytes();
    DateTime<Utc>: |value| &value.timestamp_micros().saturating_sub(EPOCH).to_be_bytes();
}

impl<F: Field + ?Sized> Field for &F {
    fn put(&self, to: &mut Vec<u8>) {
        (**self).put(to);
    }
}

impl<F: Field> Field for Option<F> {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Some(value) => value.put(to),
            None => to.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
}

/// What is copied and what is upserted: few new rows go with the changed ones.
pub(crate) fn split<R>(new: Vec<R>, mut changed: Vec<R>) -> (Vec<R>, Vec<R>) {
    if new.len() >= WORTH_IT {
        return (new, changed);
    }
    changed.extend(new);
    (Vec::new(), changed)
}

/// Rows on their way into a table.
pub(crate) struct Copy {
    bytes: Vec<u8>,
    pieces: Vec<Vec<u8>>,
}

impl Copy {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { bytes: HEADER.to_vec(), pieces: Vec::new() }
    }

    /// A row: one value for each column that the statement names, in its order.
    pub(crate) fn row(&mut self, values: &[&dyn Field]) {
        let columns = i16::try_from(values.len()).unwrap_or(i16::MAX);
        self.bytes.extend_from_slice(&columns.to_be_bytes());
        for value in values {
            value.put(&mut self.bytes);
        }
        if self.bytes.len() >= PIECE_BYTES {
            self.pieces.push(std::mem::take(&mut self.bytes));
        }
    }

    /// Writes them with a `COPY … FROM STDIN (FORMAT binary)`.
    pub(crate) async fn write(
        mut self,
        connection: &mut PgConnection,
        statement: &str,
    ) -> Result<(), sqlx::Error> {
        self.bytes.extend_from_slice(&END);
        self.pieces.push(self.bytes);
        let mut copy = connection.copy_in_raw(statement).await?;
        for piece in self.pieces {
            copy.send(piece).await?;
        }
        copy.finish().await?;
        Ok(())
    }
}
