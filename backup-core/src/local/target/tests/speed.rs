//! Not a test but a measurement; run it in a release build:
//! `LOCAL_TARGET_DATA=DIR LOCAL_TARGET_BASE=DIR cargo test --release -p backup-core local::target::tests::speed -- --ignored --nocapture`

use super::*;
use std::process::Command;
use std::time::Instant;

/// Processor time in seconds, of this process and of its children that have ended.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap().split(' ').map(|f| f.parse().unwrap_or(0.0)).collect();
    ((fields[12] + fields[13]) / 100.0, (fields[14] + fields[15]) / 100.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; needs a directory of many small files in LOCAL_TARGET_DATA"]
async fn many_small_files_against_tar() {
    let data = PathBuf::from(std::env::var_os("LOCAL_TARGET_DATA").expect("LOCAL_TARGET_DATA names a directory"));
    let mut items = Vec::new();
    let mut dirs = vec![data.clone()];
    while let Some(path) = dirs.pop() {
        let mut below: Vec<_> = std::fs::read_dir(&path).unwrap().map(|item| item.unwrap().path()).collect();
        below.sort();
        for path in below {
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(&data).unwrap().as_os_str().as_bytes().to_vec();
            let kind = if meta.is_dir() { EntryKind::Directory } else { EntryKind::File };
            let content = if meta.is_dir() { Vec::new() } else { std::fs::read(&path).unwrap() };
            items.push(
                item(name, kind, content).mode(meta.mode() & 0o7777).mtime(meta.mtime(), 0).owned(0, Some("root")),
            );
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    let base = std::env::var_os("LOCAL_TARGET_BASE").expect("LOCAL_TARGET_BASE names a directory to restore into");
    let base = tempfile::tempdir_in(base).unwrap();
    let tar = base.path().join("all.tar");
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&data).arg("."));
    std::fs::read(&tar).unwrap();
    let plan = plan(&items);
    // As an engine may cut it: batches by bytes, two at work at once.
    for round in 0..5 {
        run(Command::new("sync").arg("-f").arg(base.path()));
        let by_tar = base.path().join(format!("tar{round}"));
        std::fs::create_dir(&by_tar).unwrap();
        let (start, (_, start_cpu)) = (Instant::now(), cpu());
        run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&by_tar));
        let (tar_took, tar_cpu) = (start.elapsed(), cpu().1 - start_cpu);
        run(Command::new("sync").arg("-f").arg(&by_tar));
        let tar_synced = start.elapsed();
        run(Command::new("sync").arg("-f").arg(base.path()));

        let root = base.path().join(format!("ours{round}"));
        let target = LocalTarget::new(LocalTargetConfig::new(&root)).unwrap();
        let batches: Vec<_> = items.chunks(512).map(<[_]>::to_vec).collect();
        let (start, (start_cpu, _)) = (Instant::now(), cpu());
        target.prepare(&plan).await.unwrap();
        let mut answers = stream::iter(batches)
            .map(|batch| {
                let (target, plan) = (target.clone(), plan.clone());
                tokio::spawn(async move { target.write_small(&plan, batch).await.unwrap() })
            })
            .buffer_unordered(2);
        while let Some(batch) = answers.next().await {
            assert!(batch.unwrap().iter().all(Result::is_ok));
        }
        let took = start.elapsed();
        assert_eq!(target.finish(&plan).await.unwrap(), []);
        let (finished, cpu) = (start.elapsed(), cpu().0 - start_cpu);
        if round == 0 {
            assert_eq!(target.verify(&plan).await.unwrap().mismatches, []);
        }
        println!(
            "tar x {tar_took:?} (durable {tar_synced:?}), ours {took:?} (finished and durable {finished:?}): {:.2}x, durable {:.2}x; \
             processor {tar_cpu:.2} s and {cpu:.2} s",
            took.as_secs_f64() / tar_took.as_secs_f64(),
            finished.as_secs_f64() / tar_synced.as_secs_f64()
        );
    }
}
