//! Backup: `events → read ahead → stream → frames → hash + compress → volumes → put → index and checkpoint → commit`.
//!
//! Each arrow is a bounded channel; the stages run side by side and the first error stops them all.

mod assemble;
mod chapters;
mod checkpoint;
mod commit;
mod frame;
mod gather;
mod read;
mod stream;
mod track;
mod volume;

use super::catalog::LATEST;
use super::handle::AbortOnDrop;
use super::session::{self, Session, no_such};
use super::{BackupRequest, BackupWork, Claimed, Engine, OperationHandle, Outcome, ResumeBackup, for_any_worker};
use crate::adapter::{Cursor, Destination, Payload, ReadContext, Source};
use crate::archive::{ArchiveKey, Header, KeyProvider, KeyWraps, ObjectNames, Previous};
use crate::budget::ByteBudget;
use crate::model::{
    ArchiveId, Checkpoint, Claim, Identity, LogRecord, NewOperation, Operation, OperationId, OperationKind, Phase,
};
use crate::pool::BufferPool;
use crate::retry::Retrying;
use crate::state::State;
use crate::{Error, ErrorClass, Result};
use assemble::{Assembler, Ended};
use checkpoint::{Blob, Body, Head, Position};
use frame::Packers;
pub(super) use frame::has_content;
use read::{GoOn, ReadAhead, Reader};
use std::collections::VecDeque;
use std::sync::Arc;
use stream::StreamWriter;
use tokio::sync::mpsc;
use track::Tracker;
use volume::{Draft, Outlet, VolumeWriter};

/// Volumes that wait for or are in their put at most, whatever a destination says that it can take.
const MAX_PUTS: usize = 256;

/// Bytes of a content that one read asks for, if the memory allows it: each read costs a request, and more work of the server than the
/// going on of one.
const MAX_RANGE: u64 = 16 << 20;
/// A read asks for whole multiples of this: servers keep objects in chunks of some MiB, of which they read whole ones.
const RANGE_STEP: u64 = 4 << 20;

/// How one memory figure is divided.
#[derive(Clone, Copy, Debug)]
struct Shares {
    /// Contents that the source reads by itself.
    inline: u64,
    /// Contents of stored entries.
    stored: u64,
    /// What one read of such a content asks for at most. Entries up to this size are read whole before their header is written.
    range: u64,
    /// Packed frames and volumes on their way.
    volumes: u64,
    /// The largest volume: one is collected, one is sealed into another copy.
    volume_size: u64,
    frame_size: u32,
}

impl Shares {
    fn of(memory: u64, options: &super::BackupOptions, preferred_volume: u64, max_object: u64) -> Self {
        // The rest is for what no budget counts: frames between reading and packing, compressors, index lines, the allocator.
        let volumes = memory / 12 * 5;
        // Sealing and object limits leave some room.
        let largest = (volumes / 5 * 2).min(max_object - max_object / 64).max(1);
        let wanted = options.volume_size.unwrap_or(preferred_volume).max(1);
        let stored = memory / 4;
        let frame_size = u64::from(options.frame_size).min(stored / 4);
        Self {
            inline: memory / 6,
            stored,
            // Some are read while another one is packed.
            range: (stored / 3 / RANGE_STEP * RANGE_STEP).clamp(RANGE_STEP, MAX_RANGE),
            volumes,
            volume_size: wanted.min(largest),
            frame_size: u32::try_from(frame_size).unwrap_or(u32::MAX),
        }
    }
}

/// A backup that is about to be created.
struct Prepared {
    new: NewOperation,
    first: Checkpoint,
    adapters: Adapters,
    head: Head,
    body: Body,
    key: Option<ArchiveKey>,
}

pub(super) async fn start(engine: &Engine, request: BackupRequest) -> Result<OperationHandle> {
    let Prepared { new, first, adapters, head, body, key } = prepare(engine, request).await?;
    // The first checkpoint is there as soon as the operation is: whoever claims it can put the same header.
    let session = Session::create(engine, new, &first).await?;
    Ok(spawn(engine, session, adapters, head, body, key))
}

pub(super) async fn create(engine: &Engine, request: BackupRequest) -> Result<Operation> {
    let Prepared { new, first, .. } = prepare(engine, request).await?;
    for_any_worker(&new)?;
    session::create(engine, new, &first).await
}

async fn prepare(engine: &Engine, request: BackupRequest) -> Result<Prepared> {
    let BackupRequest { source, destination, name, options, keys, limits, spec, connections, created_by } = request;
    engine.options.check()?;
    options.check()?;
    if name == LATEST {
        return Err(Error::invalid("an archive cannot be named `latest`: that is how the newest one is called for"));
    }
    let adapters = Adapters::new(engine, source, destination, limits);
    adapters.check().await?;

    let now = jiff::Timestamp::now();
    let archive = ArchiveId::generate(now);
    let identity = adapters.source.identity();
    let header = Header {
        naming: adapters.source.properties().naming,
        ..Header::new(archive.clone(), name.clone(), identity.clone(), now, options.compression, keys.is_some())
    };
    let header = header.encode()?;
    let (key, wraps) = match &keys {
        Some(provider) => {
            let key = ArchiveKey::generate()?;
            let wraps = KeyWraps::new(vec![provider.wrap(&key, &header).await?]).encode()?;
            (Some(key), Some(Blob(wraps.into())))
        }
        None => (None, None),
    };
    let place = adapters.destination.identity();
    let previous = engine.store.archives(&place).await?.into_iter().rev().find(|known| known.record.source == identity);
    let head = Head { archive: archive.clone(), header: Blob(header.into()), keys: wraps };
    let body = Body {
        options,
        position: Position::default(),
        volumes: Vec::new(),
        volume_count: 0,
        stored_bytes: 0,
        pieces: Vec::new(),
        chapter: None,
        tail: checkpoint::Tail::default(),
        previous: previous
            .map(|known| Previous { archive: known.record.archive, manifest_sha256: known.record.manifest_sha256 }),
        manifest: None,
    };
    let first = checkpoint::encode(&head, &body, key.as_ref())?;
    let new = NewOperation {
        id: OperationId::generate(now),
        kind: OperationKind::Backup,
        name,
        source: identity,
        destination: place,
        archive,
        spec,
        connections,
        created_by,
    };
    Ok(Prepared { new, first, adapters, head, body, key })
}

pub(super) async fn resume(engine: &Engine, request: ResumeBackup) -> Result<OperationHandle> {
    let ResumeBackup { operation: id, source, destination, keys, limits, take_over } = request;
    engine.options.check()?;
    let operation = engine.store.get(&id).await?.ok_or_else(|| no_such(&id))?;
    let adapters = Adapters::new(engine, source, destination, limits);
    adapters.fit(&operation)?;
    let (session, claim) = Session::claim(engine, &id, take_over).await?;
    begin(engine, session, &claim, adapters, keys).await
}

pub(super) async fn go_on(engine: &Engine, claimed: Claimed, work: BackupWork) -> Result<OperationHandle> {
    let Claimed { session, claim } = claimed;
    let BackupWork { source, destination, keys, limits } = work;
    let adapters = Adapters::new(engine, source, destination, limits);
    match adapters.fit(&claim.operation) {
        Ok(()) => begin(engine, session, &claim, adapters, keys).await,
        Err(error) => {
            session.broke_off(error).await?;
            Err(Error::conflict("the operation cannot be continued now")
                .on(format!("operation {}", session.fence().operation)))
        }
    }
}

/// Begins an attempt under a claim, from the last checkpoint.
async fn begin(
    engine: &Engine,
    session: Arc<Session>,
    claim: &Claim,
    adapters: Adapters,
    keys: Option<Arc<dyn KeyProvider>>,
) -> Result<OperationHandle> {
    let id = session.fence().operation.clone();
    let opened = async { open_checkpoint(claim, keys.as_deref()).await };
    match session.hold(opened).await {
        Ok((head, body, key)) => Ok(spawn(engine, session, adapters, head, body, key)),
        Err(error) if error.class() == ErrorClass::Unauthorized && claim.operation.state == State::Running => {
            let of = session.clone();
            let work = async move { session.key_needed(error).await };
            Ok(OperationHandle::of(&of, claim.operation.new.archive.clone(), work))
        }
        Err(error) if error.class() == ErrorClass::Unauthorized => {
            session.completed_elsewhere(&error).await;
            Err(error
                .context("the archive is left to be completed by a worker that has its key")
                .on(format!("operation {id}")))
        }
        Err(error) => {
            session.broke_off(error).await?;
            Err(Error::conflict("the operation cannot be resumed now").on(format!("operation {id}")))
        }
    }
}

pub(super) fn same_place(what: &str, before: &Identity, now: &Identity) -> Result<()> {
    if before == now {
        return Ok(());
    }
    Err(Error::invalid(format!("the operation was started with the {what} {before}, not with {now}")))
}

/// The last checkpoint, with the archive key. `Unauthorized` when no given key opens it.
async fn open_checkpoint(claim: &Claim, keys: Option<&dyn KeyProvider>) -> Result<(Head, Body, Option<ArchiveKey>)> {
    let saved = claim.checkpoint.as_ref().ok_or_else(|| Error::corrupt("the operation has no checkpoint"))?;
    let (head, sealed) = checkpoint::decode_head(saved)?;
    let key = match (&head.keys, keys) {
        (None, _) => None,
        (Some(wraps), Some(provider)) => Some(KeyWraps::parse(&wraps.0)?.open(provider, &head.header.0).await?),
        (Some(_), None) => {
            return Err(Error::unauthorized("the archive is sealed; give its key or passphrase to go on"));
        }
    };
    let body = checkpoint::decode_body(&head, &sealed, key.as_ref())?;
    Ok((head, body, key))
}

/// Source and destination of a running backup, with retries.
#[derive(Clone, Debug)]
struct Adapters {
    source: Arc<dyn Source>,
    destination: Arc<dyn Destination>,
    limits: super::Limits,
}

impl Adapters {
    fn new(engine: &Engine, source: Arc<dyn Source>, destination: Arc<dyn Destination>, limits: super::Limits) -> Self {
        let retry = &engine.options.retry;
        Self { source: Retrying::new(source, *retry), destination: Retrying::new(destination, *retry), limits }
    }

    /// Whether they are those that the operation was started with.
    fn fit(&self, operation: &Operation) -> Result<()> {
        if operation.new.kind != OperationKind::Backup {
            return Err(Error::invalid("it is not a backup").on(format!("operation {}", operation.new.id)));
        }
        same_place("source", &operation.new.source, &self.source.identity())?;
        same_place("destination", &operation.new.destination, &self.destination.identity())
    }

    async fn check(&self) -> Result<()> {
        let (source, destination) = (self.source.identity(), self.destination.identity());
        if destination.contains(&source) {
            let text =
                format!("the source {source} lies inside the destination {destination}; choose another destination");
            return Err(Error::invalid(text));
        }
        self.source.check().await.map_err(|e| e.context(format!("the source {source} cannot be used")))?;
        self.destination
            .check()
            .await
            .map_err(|e| e.context(format!("the destination {destination} cannot be used")))?;
        Ok(())
    }
}

fn spawn(
    engine: &Engine,
    session: Arc<Session>,
    adapters: Adapters,
    head: Head,
    body: Body,
    key: Option<ArchiveKey>,
) -> OperationHandle {
    let (of, archive) = (session.clone(), head.archive.clone());
    let attempt = Attempt { engine: engine.clone(), session, adapters, head: Arc::new(head), key: key.map(Arc::new) };
    OperationHandle::of(&of, archive, attempt.run(body))
}

/// One attempt at a backup.
#[derive(Debug)]
struct Attempt {
    engine: Engine,
    session: Arc<Session>,
    adapters: Adapters,
    head: Arc<Head>,
    key: Option<Arc<ArchiveKey>>,
}

impl Attempt {
    async fn run(self, body: Body) -> Result<Outcome> {
        let session = self.session.clone();
        match session.hold(Box::pin(self.work(body))).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                session.writers_stopped().await;
                self.ended(error).await
            }
        }
    }

    async fn ended(&self, error: Error) -> Result<Outcome> {
        match self.session.settled().await {
            Some(outcome) => {
                if outcome == Outcome::Cancelled {
                    self.clean_up().await;
                }
                Ok(outcome)
            }
            None => self.session.broke_off(error).await,
        }
    }

    /// Somebody has cancelled the operation and removed its archive; what this worker still had in flight goes as well.
    async fn clean_up(&self) {
        if let Err(error) = super::remove::remove_unfinished(&*self.adapters.destination, &self.head.archive).await {
            tracing::warn!(error = %error.chain(), "objects of the cancelled archive remain; a sweep removes them");
        }
    }

    async fn work(&self, body: Body) -> Result<Outcome> {
        let session = &self.session;
        let header = Header::parse(&self.head.header.0)?;
        let names = ObjectNames::new(header.id.clone(), header.codec, header.sealed);
        let outlet = Outlet {
            session: session.clone(),
            destination: self.adapters.destination.clone(),
            names: names.clone(),
            key: self.key.clone(),
            limit: self.adapters.limits.write.clone(),
        };
        if body.volume_count > 0 {
            commit::find_archive(&*outlet.destination, &names).await?;
        }
        if body.manifest.is_some() {
            session.log(LogRecord::info("commit", "completing the archive"));
            session.committing().await?;
            return commit::complete(&outlet, &body, &header).await;
        }
        self.connect(&outlet, &body).await?;
        session.meter.phase(Phase::Transferring);
        let estimate = self.estimate();
        let packers = Arc::new(Packers::new(body.options.compression));
        let mut tracker = Tracker { outlet: outlet.clone(), packers, head: self.head.clone(), body };
        let ended = {
            let transfer = Box::pin(self.transfer(&mut tracker));
            let mut estimate = std::pin::pin!(estimate);
            let mut transfer = transfer;
            tokio::select! {
                ended = &mut transfer => ended?,
                () = &mut estimate => transfer.await?,
            }
        };
        match ended {
            Ended::Complete => {
                commit::prepare(&mut tracker, &header).await?;
                commit::complete(&outlet, &tracker.body, &header).await
            }
            Ended::Paused => session.paused().await,
            Ended::Broken(error) => Err(error),
        }
    }

    /// Makes sure that source and destination can be used, and that the archive's first objects are there.
    async fn connect(&self, outlet: &Outlet, body: &Body) -> Result<()> {
        self.adapters.check().await?;
        let (source, destination) = (self.adapters.source.identity(), self.adapters.destination.identity());
        self.session.log(LogRecord::info("connect", format!("backing up {source} to {destination}")));
        commit::may_go_on(&*outlet.destination, &outlet.names, body).await?;
        outlet.remove_staged().await;
        outlet.put_as_is(&outlet.names.header(), Payload::from(self.head.header.0.clone())).await?;
        if let Some(keys) = &self.head.keys {
            outlet.put_as_is(&outlet.names.keys(0), Payload::from(keys.0.clone())).await?;
        }
        Ok(())
    }

    /// Totals for the progress.
    async fn estimate(&self) {
        // A backup that is done by then needs no estimate.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        match self.adapters.source.estimate().await {
            Ok(estimate) => {
                self.warn_of_little_space(estimate.bytes).await;
                self.session.meter.update(|p| (p.entries_total, p.bytes_total) = (estimate.entries, estimate.bytes))
            }
            Err(error) => tracing::debug!(error = %error.chain(), "the source could not be counted"),
        }
    }

    /// Says so when the source holds more than the destination has room for. It may fit all the same: nobody knows yet how well
    /// the data compresses. A disk that does get full pauses the backup.
    async fn warn_of_little_space(&self, bytes: Option<u64>) {
        let Some(bytes) = bytes else { return };
        if let Ok(Some(free)) = self.adapters.destination.free_space().await
            && free < bytes
        {
            let text = format!("the source holds {bytes} bytes, and the destination has room for {free}");
            self.session.log(LogRecord::warning("space", text));
        }
    }

    /// Runs the stages until the source ends, a pause is asked for, or something breaks; then everything that was read is in
    /// the tracker's body and in its last checkpoint.
    async fn transfer(&self, tracker: &mut Tracker) -> Result<Ended> {
        let position = tracker.body.position.clone();
        if position.ended {
            return Ok(Ended::Complete);
        }
        let options = &tracker.body.options;
        let properties = self.adapters.destination.properties();
        let memory = self.engine.options.memory;
        let shares = Shares::of(memory, options, properties.preferred_volume_size, properties.max_object_size);
        // A packed frame waits for its place in a volume outside of the budget.
        let most = shares.volumes / 4 / u64::from(shares.frame_size).max(1);
        let threads = self.engine.options.threads.clamp(1, usize::try_from(most).unwrap_or(1).max(1));

        // A stored entry takes two places: its start and its first range.
        let parallel_reads = self.adapters.source.properties().parallel_reads;
        let (steps_out, steps) = mpsc::channel(16 + 2 * parallel_reads.min(256));
        let (frames_out, frames) = mpsc::channel(1);
        let (volumes_out, volumes) = mpsc::channel(properties.parallelism.clamp(1, MAX_PUTS));

        let ctx = ReadContext {
            budget: ByteBudget::new(shares.inline),
            limit: self.adapters.limits.read.clone(),
            stop: self.session.pause.clone(),
            excluded: Arc::new([self.adapters.destination.identity()]),
        };
        let abandoned = read::Abandoned::default();
        let go_on = position.open.as_ref().filter(|open| !open.broken).map(|open| GoOn {
            name: open.name.clone(),
            version: open.version.clone(),
            range: open.offset..open.size,
        });
        let after = match &position.open {
            Some(open) => Some(open.cursor()),
            None => position.cursor.as_ref().map(|cursor| Cursor(cursor.0.clone())),
        };
        let stored = ByteBudget::new(shares.stored);
        let frame = shares.frame_size as usize;
        let reader = Reader {
            source: self.adapters.source.clone(),
            ctx: ctx.clone(),
            range: shares.range,
            frame,
            buffers: BufferPool::new(shares.stored as usize / frame.max(1)),
        };
        let read_ahead =
            ReadAhead { reader: reader.clone(), budget: stored.clone(), abandoned: abandoned.clone(), out: steps_out };
        let mut reading = AbortOnDrop(tokio::spawn(read_ahead.run(go_on, after)));

        let raw_start = position.raw;
        let budgets = [ctx.budget.clone(), stored];
        let stream = StreamWriter::new(
            position,
            self.session.clone(),
            shares.frame_size,
            options.volume_age,
            budgets,
            frames_out,
        );
        let assembler = Assembler {
            stream,
            session: self.session.clone(),
            reader,
            budget: ByteBudget::new(2 * shares.range),
            abandoned,
            own: tracker.outlet.names.clone(),
            gave_one_up: false,
            steps,
            queue: VecDeque::new(),
        };
        let writer = VolumeWriter {
            outlet: tracker.outlet.clone(),
            packers: tracker.packers.clone(),
            threads,
            volume_size: shares.volume_size,
            budget: ByteBudget::new(shares.volumes),
            out: volumes_out,
            next_number: tracker.body.volume_count,
            draft: Draft::at(raw_start),
        };
        let assembling = AbortOnDrop(tokio::spawn(assembler.run(async move { reading.join().await })));
        let writing = AbortOnDrop(tokio::spawn(writer.run(frames)));
        join(assembling, writing, tracker.run(volumes)).await
    }
}

/// Waits for the three stages. When one fails the others end too, as their channels close; the error that came first in the
/// direction against the stream is the cause.
async fn join(
    mut assembling: AbortOnDrop<Result<Ended>>,
    mut writing: AbortOnDrop<Result<()>>,
    tracking: impl Future<Output = Result<()>>,
) -> Result<Ended> {
    // The tracker ends when the writer has ended, and the writer when the assembler has.
    tracking.await?;
    writing.join().await?;
    assembling.join().await
}
