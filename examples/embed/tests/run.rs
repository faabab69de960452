//! The program does what it says.

use std::process::Command;

#[test]
fn a_directory_is_backed_up_and_restored() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("docs");
    std::fs::create_dir(&from).unwrap();
    std::fs::write(from.join("letter.txt"), "Dear reader").unwrap();
    let program = || Command::new(env!("CARGO_BIN_EXE_backup-example-embed"));
    // A second run finds what the first has made.
    for archives in 1..=2 {
        let run = program()
            .arg(place.path().join("state"))
            .arg(&from)
            .arg(place.path().join("backups"))
            .arg(place.path().join("back"))
            .output()
            .unwrap();
        assert!(run.status.success(), "{run:?}");
        assert_eq!(String::from_utf8_lossy(&run.stdout).matches("completed").count(), 2, "{run:?}");
        assert_eq!(std::fs::read_to_string(place.path().join("back/letter.txt")).unwrap(), "Dear reader");
        assert_eq!(std::fs::read_dir(place.path().join("backups")).unwrap().count(), archives);
    }
    assert!(!program().output().unwrap().status.success());
}
