//! The program does what it says.

use std::process::Command;

#[test]
fn a_table_is_backed_up_and_listed() {
    let place = tempfile::tempdir().unwrap();
    let run =
        Command::new(env!("CARGO_BIN_EXE_backup-example-custom-adapter")).arg(place.path().join("b")).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    let printed = String::from_utf8(run.stdout).unwrap();
    for line in ["38  reports/sales.csv", "2  settings/language", "4  settings/theme"] {
        assert!(printed.contains(line), "{printed}");
    }
}
