//! A controller is lost, and comes back from its backup.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use vigie_tests::{Fleet, Said, binary, wait_until};

use crate::ANY_PROGRAM;

fn passphrase(fleet: &Fleet, word: &str) -> std::path::PathBuf {
    let file = fleet.path("passphrase");
    fs::write(&file, word).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn controller(what: &str, file: &Path, state: &Path, passphrase: &Path) -> Command {
    let mut command = Command::new(binary("vigie-controller"));
    command.arg(what).arg(file).arg("--state").arg(state).arg("--passphrase-file").arg(passphrase);
    command
}

#[test]
fn agents_and_operators_find_a_restored_controller_as_if_nothing_had_been() {
    let mut fleet = Fleet::new();
    let _one = fleet.add_agent("vps1", ANY_PROGRAM);
    let _two = fleet.add_agent("vps2", ANY_PROGRAM);
    let (witness, gate) = (fleet.path("witness"), fleet.path("gate"));
    let _ = fleet.vigiectl(&["exec", "-H", "vps1", "--", "uptime"]).exits(0);
    // One is under way when the backup is made, and ends after it.
    let script = format!(
        "echo begin >>{w}; while [ ! -e {g} ]; do sleep 0.05; done; echo end >>{w}",
        w = witness.display(),
        g = gate.display()
    );
    let mut ctl = fleet.ctl();
    ctl.args(["exec", "-H", "vps2", "--yes", "--timeout", "60s", "--", "sh", "-c", &script]);
    let mut ctl = ctl.spawn().unwrap();
    wait_until("the program begins", || witness.exists());

    let (file, state) = (fleet.path("vigie.backup"), fleet.path("controller"));
    let word = passphrase(&fleet, "correct horse battery\n");
    // While it serves.
    let said = Said::of(&mut controller("backup", &file, &state, &word)).exits(0);
    assert!(said.stdout.contains("read back and whole"), "{said:?}");
    let late = fleet.vigiectl(&["hosts", "token", "vps3"]).exits(0);
    drop(late);
    // The run is driven by two more owners, whose epochs its agent sees: the restored one has to be above them.
    for _ in 0..2 {
        fleet.kill_controller();
        fleet.start_controller();
        fleet.wait_connected("vps2", true);
    }
    let refused = Said::of(&mut controller("restore", &file, &state, &word)).exits(1);
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    let refused = Said::of(controller("restore", &file, &state, &word).arg("--replace")).exits(1);
    assert!(refused.stderr.contains("in use"), "{refused:?}");

    fleet.kill_controller();
    fs::remove_dir_all(&state).unwrap();
    let wrong = passphrase(&fleet, "another passphrase\n");
    let refused = Said::of(&mut controller("restore", &file, &state, &wrong)).exits(1);
    assert!(refused.stderr.contains("passphrase"), "{refused:?}");
    assert!(!state.exists(), "nothing is half restored");
    let word = passphrase(&fleet, "correct horse battery\n");
    let said = Said::of(&mut controller("restore", &file, &state, &word)).exits(0);
    assert!(said.stdout.contains("1 open runs go on"), "{said:?}");
    fleet.start_controller();
    // Nobody enrols or logs in again.
    fleet.wait_connected("vps1", true);
    fleet.wait_connected("vps2", true);
    fs::write(&gate, "").unwrap();
    wait_until("the run that was under way closes", || {
        let runs = fleet.vigiectl(&["runs", "list", "-o", "json"]).exits(0).json();
        runs["runs"][0]["phase"] == "closed" && runs["runs"][0]["verdict"] == "ok"
    });
    assert_eq!(fs::read_to_string(&witness).unwrap(), "begin\nend\n", "once, whatever was restored");
    let ran = fleet.vigiectl(&["exec", "--all", "--yes", "--", "uptime"]).exits(0);
    assert!(ran.stdout.contains("load average"), "{ran:?}");
    let _ = ctl.wait();
}
