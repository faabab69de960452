//! Stays with a running operation until it ends: shows its progress, passes signals on, tells how it ended.

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::operations::pause_text;
use crate::progress::{LOOK_EVERY, Reporter};
use crate::signals::{Signals, Wish};
use backup_core::ErrorClass;
use backup_core::adapter::{LogSink, Store};
use backup_core::engine::{Engine, EngineOptions, OperationHandle, Outcome};
use backup_core::model::{LogLevel, LogRecord, OperationId, OperationKind, OperationQuery, Progress};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Records that may wait to be shown; what comes on top is only in the job log.
const RECORDS_WAITING: usize = 1024;

/// Stays with an operation; what its sink receives is shown here.
pub(crate) struct Runner<'a> {
    app: &'a App,
    records: mpsc::Receiver<LogRecord>,
    verification: Arc<Mutex<Option<String>>>,
}

/// An operation that was done.
#[derive(Debug)]
pub(crate) struct Completed {
    /// Warnings met.
    pub(crate) warnings: u64,
    /// Final figures.
    pub(crate) progress: Progress,
    /// What reading back gave, if that was done.
    pub(crate) verification: Option<String>,
}

/// How an operation ended, as far as it did.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It is done.
    Completed(Box<Completed>),
    /// It is not; this has been said.
    Otherwise(Exit),
}

/// Passes job log records on to who shows them.
#[derive(Debug)]
struct Sink {
    records: mpsc::Sender<LogRecord>,
    /// The last good word on reading back; kept apart, so that it is not lost among many warnings.
    verification: Arc<Mutex<Option<String>>>,
}

impl LogSink for Sink {
    fn record(&self, _operation: &OperationId, record: &LogRecord) {
        if record.step == "verify" && record.level == LogLevel::Info {
            *self.verification.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.message.clone());
        }
        // When the terminal cannot keep up, the work goes on all the same.
        let _ = self.records.try_send(record.clone());
    }
}

impl<'a> Runner<'a> {
    /// With the sink that the operation's engine is to have.
    pub(crate) fn new(app: &'a App) -> (Self, Arc<dyn LogSink>) {
        let (sender, records) = mpsc::channel(RECORDS_WAITING);
        let verification = Arc::default();
        let sink = Sink { records: sender, verification: Arc::clone(&verification) };
        (Self { app, records, verification }, Arc::new(sink))
    }

    /// With an engine on this store.
    pub(crate) fn with_engine(app: &'a App, store: Arc<dyn Store>, options: EngineOptions) -> (Self, Engine) {
        let (runner, sink) = Self::new(app);
        (runner, Engine::with_options(store, options, vec![sink]))
    }

    /// Stays with an operation until it ends. The first signal pauses it or hands it over, the second stops it at once.
    ///
    /// # Errors
    /// What made it fail.
    pub(crate) async fn attend(
        mut self,
        handle: OperationHandle,
        kind: OperationKind,
        signals: &mut Signals,
    ) -> Result<Ended, Failure> {
        let app = self.app;
        let id = handle.id().clone();
        let archive = handle.archive().clone();
        app.out.event(&json!({ "event": "started", "kind": kind, "operation": id, "archive": archive }));
        if app.is_verbose() {
            app.out.note(format!("operation {id}, archive {archive}"));
        }
        let mut reporter = Reporter::new(app.out, app.is_verbose());
        let progress = handle.progress();
        let (pause, hand_over) = (handle.pause_token(), handle.hand_over_token());
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let result = {
            let wait = handle.wait();
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    result = &mut wait => break Some(result),
                    _ = look.tick() => reporter.update(&progress.borrow().clone()),
                    Some(record) = self.records.recv() => reporter.record(&record),
                    wish = signals.next() => {
                        if pause.is_cancelled() {
                            break None;
                        }
                        let doing = match wish {
                            Wish::Pause => {
                                pause.cancel();
                                "pausing"
                            }
                            Wish::ShutDown => {
                                hand_over.cancel();
                                "handing over"
                            }
                        };
                        app.out.note(format!("{doing}: what has been read is being stored; Ctrl-C again stops at once"));
                    }
                }
            }
        };
        while let Ok(record) = self.records.try_recv() {
            reporter.record(&record);
        }
        reporter.finish();
        let resume = app.resume_command(&id);
        match result {
            None => {
                app.out.event(&json!({ "event": "stopped", "operation": id, "resume": resume }));
                app.out.note(format!("stopped; go on with: {resume}"));
                Ok(Ended::Otherwise(Exit::Paused))
            }
            Some(Ok(Outcome::Completed { warnings, progress })) => {
                let verification = self.verification.lock().unwrap_or_else(PoisonError::into_inner).take();
                app.out.event(&json!({
                    "event": "completed", "kind": kind, "operation": id, "archive": archive,
                    "warnings": warnings, "progress": progress, "verification": verification,
                }));
                Ok(Ended::Completed(Box::new(Completed { warnings, progress, verification })))
            }
            Some(Ok(Outcome::Paused { reason, resume_at, message })) => {
                app.out.event(&json!({
                    "event": "paused", "operation": id, "archive": archive, "reason": reason,
                    "resume_at": resume_at, "message": message, "resume": resume,
                }));
                let mut text = pause_text(&reason).to_string();
                if let Some(message) = message {
                    text = format!("{text}\n  {message}");
                }
                app.out.tell(format!("{text}\ngo on with: {resume}"));
                Ok(Ended::Otherwise(Exit::Paused))
            }
            Some(Ok(Outcome::HandedOver)) => {
                app.out.event(&json!({
                    "event": "handed-over", "operation": id, "archive": archive, "resume": resume,
                }));
                app.out.tell(format!("handed over to whoever resumes it\ngo on with: {resume}"));
                Ok(Ended::Otherwise(Exit::Paused))
            }
            Some(Ok(Outcome::Cancelled)) => {
                app.out.event(&json!({ "event": "cancelled", "operation": id, "archive": archive }));
                app.out.tell(format!("operation {id} was cancelled"));
                Ok(Ended::Otherwise(Exit::Failed))
            }
            // A new kind of outcome that this program does not know yet.
            Some(Ok(other)) => {
                app.out.tell(format!("operation {id} ended: {other:?}"));
                Ok(Ended::Otherwise(Exit::Failed))
            }
            Some(Err(error)) => {
                let damaged = kind == OperationKind::Restore && error.class() == ErrorClass::Corrupt;
                let more =
                    if damaged { " (add --keep-going to restore what is intact of a damaged archive)" } else { "" };
                Err(Failure::from(error).hint(format!("go on with: {resume}{more}")))
            }
        }
    }
}

/// Begins a new operation with this spec, unless a signal comes first. One that has been created by then is named, with what goes on with it.
///
/// # Errors
/// What kept it from being begun; `Interrupted` after a signal when nothing was created.
pub(crate) async fn begin(
    app: &App,
    store: &dyn Store,
    signals: &mut Signals,
    (kind, spec): (OperationKind, &Value),
    work: impl Future<Output = backup_core::Result<OperationHandle>>,
) -> Result<ControlFlow<Exit, OperationHandle>, Failure> {
    let start = OperationId::generate(jiff::Timestamp::now());
    match unless_interrupted(signals, work).await {
        Ok(begun) => return Ok(ControlFlow::Continue(begun.map_err(Failure::of_request)?)),
        Err(Failure::Interrupted) => {}
        Err(other) => return Err(other),
    }
    // The store may be what does not answer; another signal ends the look.
    let id = match unless_interrupted(signals, created(store, &start, kind, spec)).await? {
        Ok(Some(id)) => id,
        Ok(None) => return Err(Failure::Interrupted),
        Err(error) => {
            tracing::debug!(error = %error.chain(), "whether the operation was created is not known");
            return Err(Failure::Interrupted);
        }
    };
    let resume = app.resume_command(&id);
    app.out.event(&json!({ "event": "stopped", "operation": id, "resume": resume }));
    app.out.note(format!("stopped before anything was done; go on with: {resume}"));
    Ok(ControlFlow::Break(Exit::Paused))
}

/// The operation with this spec that was created since then and is still there.
async fn created(
    store: &dyn Store,
    start: &OperationId,
    kind: OperationKind,
    spec: &Value,
) -> backup_core::Result<Option<OperationId>> {
    // Ids tell the second in which they were made.
    let second = |id: &OperationId| id.as_str().split('-').next().unwrap_or_default().to_owned();
    let query = OperationQuery { kind: Some(kind), ..OperationQuery::default() };
    let found = store.query(&query).await?.into_iter().find(|operation| {
        operation.new.spec == *spec && second(&operation.new.id) >= second(start) && !operation.state.is_final()
    });
    Ok(found.map(|operation| operation.new.id))
}

/// Runs what comes before an operation's handle is there, unless a signal comes first.
///
/// # Errors
/// `Interrupted` after a signal.
pub(crate) async fn unless_interrupted<T>(signals: &mut Signals, work: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        result = work => Ok(result),
        _ = signals.next() => Err(Failure::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Global;
    use backup_core::memory::MemoryStore;
    use backup_core::model::{ArchiveId, Identity, NewOperation};

    async fn create(store: &MemoryStore, spec: &Value) -> OperationId {
        let now = jiff::Timestamp::now();
        let new = NewOperation {
            id: OperationId::generate(now),
            kind: OperationKind::Backup,
            name: String::new(),
            source: Identity::new("local", "/a"),
            destination: Identity::new("local", "/b"),
            archive: ArchiveId::generate(now),
            spec: spec.clone(),
            connections: None,
            created_by: String::new(),
        };
        let id = new.id.clone();
        store.create(new, None).await.unwrap();
        id
    }

    #[tokio::test]
    async fn an_operation_that_was_created_when_a_signal_came_is_found() {
        let (store, spec) = (MemoryStore::new(), json!({ "from": "a" }));
        let start = OperationId::generate(jiff::Timestamp::now());
        create(&store, &json!({ "from": "other" })).await;
        assert_eq!(created(&store, &start, OperationKind::Backup, &spec).await.unwrap(), None);
        let id = create(&store, &spec).await;
        assert_eq!(created(&store, &start, OperationKind::Backup, &spec).await.unwrap(), Some(id));
        assert_eq!(created(&store, &start, OperationKind::Restore, &spec).await.unwrap(), None);
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
        let later = OperationId::generate(later);
        assert_eq!(created(&store, &later, OperationKind::Backup, &spec).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_signal_while_an_operation_is_begun_ends_as_a_pause_when_it_is_there() {
        let (store, spec) = (MemoryStore::new(), json!({ "from": "a" }));
        let global = Global {
            key_file: None,
            passphrase_env: None,
            allow_unsealed: false,
            json: false,
            store: None,
            quiet: true,
            verbose: 0,
        };
        let app = App::new(global).unwrap();
        let mut signals = Signals::install().unwrap();
        for there in [false, true] {
            let work = async {
                if there {
                    create(&store, &spec).await;
                }
                let pid = std::process::id().to_string();
                assert!(std::process::Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
                std::future::pending().await
            };
            let ended = begin(&app, &store, &mut signals, (OperationKind::Backup, &spec), work).await;
            match ended {
                Ok(ControlFlow::Break(exit)) => assert!(there && exit == Exit::Paused),
                Err(failure) => assert!(!there && matches!(failure, Failure::Interrupted)),
                Ok(ControlFlow::Continue(_)) => panic!("begun"),
            }
        }
    }
}
