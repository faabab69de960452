//! Pauses, budget, bandwidth and speed.

use super::*;

#[tokio::test]
async fn a_pause_delivers_what_was_read_and_a_resume_the_rest() {
    for size in [0, 3] {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..200 {
            fs::write(dir.path().join(format!("{i:03}")), vec![7; size]).unwrap();
        }
        let mut source = source(dir.path());
        source.bounds.batch.items = 10;
        let source = Arc::new(source);
        let ctx = context();
        let stop = ctx.stop.clone();
        let budget = ctx.budget.clone();
        let mut events = source.clone().events(None, ctx);
        let mut first = Vec::new();
        while let Some(event) = events.next().await {
            let SourceEvent::Entry(entry) = event.unwrap() else { panic!() };
            first.push(*entry);
            if first.len() == 15 {
                stop.cancel();
            }
        }
        assert!((20..=80).contains(&first.len()) && first.len() % 10 == 0, "{}", first.len());
        let (rest, _) = run(&source, Some(first[first.len() - 1].cursor.clone()), context()).await;
        assert_eq!(first.len() + rest.len(), 200);
        assert_eq!(rest[0].name.to_string(), format!("{:03}", first.len()));
        drop(rest);
        assert_eq!(budget.available() < budget.total(), size > 0);
        drop(first);
        assert_eq!(budget.available(), budget.total(), "what is dropped goes back");
    }
}

#[tokio::test]
async fn a_small_budget_is_kept_and_dropping_the_stream_gives_all_back() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50 {
        fs::write(dir.path().join(format!("{i:02}")), vec![i; 40_000]).unwrap();
    }
    let source = Arc::new(source(dir.path()));
    let ctx = ReadContext { budget: ByteBudget::new(128 << 10), ..context() };
    let budget = ctx.budget.clone();
    let mut events = source.clone().events(None, ctx.clone());
    for i in 0..50 {
        // Each is dropped before the next is asked for; so the walk is never stuck.
        let Some(Ok(SourceEvent::Entry(entry))) = events.next().await else { panic!() };
        assert_eq!(inline(&entry), vec![i; 40_000]);
    }
    assert!(events.next().await.is_none());
    assert_eq!(budget.available(), budget.total());

    let mut events = source.events(None, ctx);
    let first = events.next().await;
    drop(events);
    drop(first);
    for _ in 0..1000 {
        if budget.available() == budget.total() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the budget did not come back");
}

#[tokio::test(start_paused = true)]
async fn the_bandwidth_limit_holds_inline_and_for_large_files() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        fs::write(dir.path().join(format!("{i}")), vec![1; 50_000]).unwrap();
    }
    fs::write(dir.path().join("large"), vec![1; 2_000_000]).unwrap();
    let source = Arc::new(source(dir.path()));
    let ctx = context();
    ctx.limit.set(std::num::NonZeroU64::new(100_000));
    let start = tokio::time::Instant::now();
    assert_eq!(run(&source, None, ctx.clone()).await.0.len(), 21);
    let inline = start.elapsed().as_secs_f64();
    assert!((9.0..=10.1).contains(&inline), "{inline}");
    let opened = source.read(&"large".into(), None, 500_000..2_000_000, &ctx).await.unwrap();
    assert_eq!(collect(opened).await.len(), 1_500_000);
    let large = start.elapsed().as_secs_f64() - inline;
    assert!((14.0..=15.5).contains(&large), "{large}");
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
