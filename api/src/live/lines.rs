//! An execution's log lines for one subscriber: what is in the table, then each line as it is printed.
//!
//! Lines are printed live at once and written to the table in batches, so a line may come from either side first. `(claim, n)`
//! says which line is the next one: what is older was sent, and what is newer waits until the lines before it are found in the
//! table or are known not to come.

use std::{collections::BTreeMap, time::Duration};

use ledgerline_domain::id::ExecutionId;
use ledgerline_nats::{LiveLines, LogTail};
use ledgerline_store::{LogLine, LogQuery, Workspace};
use tokio::time::{Instant, sleep_until};

use super::{
    feed::{End, Feed},
    frame::{CLOSE_RESTART, Frame},
};

/// Lines of one read of the table.
const PAGE: i64 = 500;

/// How often the table is read when nothing is heard: lines of other processes come this way when NATS is away.
const FLOOR: Duration = Duration::from_secs(1);

/// How soon the table is read again for lines that are missing before one that was heard.
const SOON: Duration = Duration::from_millis(50);

/// How long such lines are looked for; a worker that died may have taken them with it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The most lines that wait for an earlier one; with more, the table is the only source until it has caught up.
const MAX_WAITING: usize = 2_000;

/// How often it is asked whether the subscriber may still listen, since no event passes here.
const CHECK_EVERY: Duration = Duration::from_secs(5);

type At = (i32, i64);

struct Joined<'a> {
    feed: &'a Feed,
    execution: ExecutionId,
    /// The last line that was sent.
    sent: Option<At>,
    /// Heard, and not sent because lines before them are missing.
    waiting: BTreeMap<At, LogLine>,
    /// Since when the first of them waits.
    since: Option<Instant>,
}

/// Follows the lines after one of them.
pub(super) async fn follow(feed: &Feed, execution: ExecutionId, after: Option<At>) -> End {
    let workspace = Workspace(feed.granted.workspace.0);
    // First listen, then read: what is printed in between is heard.
    let tail = feed.state.live_logs.subscribe(workspace, execution.0).await;
    let joined = Joined { feed, execution, sent: after, waiting: BTreeMap::new(), since: None };
    match joined.run(tail).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

impl Joined<'_> {
    async fn run(mut self, mut tail: LogTail) -> Result<std::convert::Infallible, End> {
        let channel = self.feed.granted.channel;
        self.feed.send(Frame::lines_subscribed(channel)).await?;
        self.read_table().await?;
        self.feed.send(Frame::lines_caught_up(channel, self.sent)).await?;
        let mut check_at = Instant::now() + CHECK_EVERY;
        loop {
            let pause = if self.waiting.is_empty() { FLOOR } else { SOON };
            tokio::select! {
                heard = tail.next() => match heard {
                    Some(LiveLines::Lines(lines)) => self.hear(lines).await?,
                    Some(LiveLines::Missed) => self.read_table().await?,
                    None => return Err(End::Close(CLOSE_RESTART, "the server restarts")),
                },
                () = sleep_until(Instant::now() + pause) => self.read_table().await?,
            }
            if Instant::now() >= check_at {
                self.feed.check().await?;
                check_at = Instant::now() + CHECK_EVERY;
            }
        }
    }

    async fn hear(&mut self, lines: Vec<LogLine>) -> Result<(), End> {
        for line in lines {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.insert((line.claim, line.n), line);
            }
        }
        self.send_in_turn().await?;
        if !self.waiting.is_empty() && self.since.is_none() {
            self.since = Some(Instant::now());
            self.read_table().await?;
        }
        Ok(())
    }

    /// Sends what follows on what was sent, and leaves what has a hole before it.
    async fn send_in_turn(&mut self) -> Result<(), End> {
        let lost_patience = self.lost_patience();
        while let Some(entry) = self.waiting.first_entry() {
            let at = *entry.key();
            let old = self.sent.is_some_and(|sent| at <= sent);
            if !old && !follows(self.sent, at) && !lost_patience {
                return Ok(());
            }
            let line = entry.remove();
            if !old {
                self.send(&line).await?;
            }
        }
        self.since = None;
        Ok(())
    }

    fn lost_patience(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Sends what the table has after the last line that was sent.
    async fn read_table(&mut self) -> Result<(), End> {
        loop {
            let query = LogQuery {
                execution_id: self.execution.0,
                after: self.sent,
                min_level: None,
                node: None,
                search: None,
                limit: PAGE,
            };
            match self.feed.state.commands.log().log_lines(&query).await {
                Ok(lines) => {
                    let full = i64::try_from(lines.len()).is_ok_and(|count| count == PAGE);
                    for line in &lines {
                        self.send(line).await?;
                    }
                    if !full {
                        return self.send_in_turn().await;
                    }
                }
                Err(error) => self.feed.wait_for_log(&error).await,
            }
        }
    }

    async fn send(&mut self, line: &LogLine) -> Result<(), End> {
        self.feed.send(Frame::line(self.feed.granted.channel, line)).await?;
        self.sent = Some((line.claim, line.n));
        Ok(())
    }
}

/// Whether a line is the very next one: by number, or the first one of a later claim.
fn follows(sent: Option<At>, at: At) -> bool {
    match sent {
        None => at.1 == 1,
        Some((claim, n)) => at == (claim, n + 1) || (at.0 > claim && at.1 == 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_line_is_known_by_its_number() {
        assert!(follows(None, (1, 1)));
        assert!(!follows(None, (1, 2)));
        assert!(follows(Some((1, 4)), (1, 5)));
        assert!(!follows(Some((1, 4)), (1, 6)));
        assert!(follows(Some((1, 4)), (2, 1)));
        assert!(!follows(Some((1, 4)), (2, 2)));
    }
}
