//! Trees on disk, and what the source makes of them.

use super::*;
use crate::adapter::Content;
use crate::budget::ByteBudget;
use crate::limit::RateLimit;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

fn context() -> ReadContext {
    ReadContext {
        budget: ByteBudget::new(64 << 20),
        limit: RateLimit::default(),
        stop: CancellationToken::new(),
        excluded: Arc::default(),
    }
}

/// Reads the tree of the environment variable `LOCAL_SOURCE_TREE` and prints how long it took; for release builds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure() {
    let root = std::env::var_os("LOCAL_SOURCE_TREE").expect("LOCAL_SOURCE_TREE names a tree");
    for _ in 0..5 {
        let config = LocalSourceConfig { root: (&root).into(), ..LocalSourceConfig::default() };
        let source = Arc::new(LocalSource::new(config).unwrap());
        let start = Instant::now();
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu_start = cpu();
        let mut events = source.events(None, context());
        let (mut entries, mut bytes, mut cursors) = (0_u64, 0, 0);
        while let Some(event) = events.next().await {
            if let SourceEvent::Entry(entry) = event.unwrap() {
                entries += 1;
                cursors += entry.cursor.0.len();
                if let Content::Inline { bytes: content, .. } = &entry.content {
                    bytes += content.len();
                }
            }
        }
        let used = cpu() - cpu_start;
        println!(
            "{entries} entries, {bytes} bytes, {cursors} bytes of cursors: {:?} wall, {}.{:03} s of one core",
            start.elapsed(),
            used.tv_sec,
            used.tv_nsec / 1_000_000
        );
    }
}
