//! Without the controller: the host's own root finds the fault and mends it over ssh, and the controller, once it is
//! back, has it in its record.

use std::time::Duration;

use vigie_tests::{wait_until, wait_within};

use crate::{concerns, controller_returns, ctl, fleet, open_incidents, world};

/// The controller dies, a backend is stopped, and somebody logs in.
#[test]
fn a_host_is_diagnosed_and_mended_while_the_controller_is_gone() {
    let _ = world(&["reset", "all"]);
    fleet(&["controller", "stop"]);
    let _ = world(&["fault", "vps2", "backend-stopped"]);
    let on_vps2 = |words: &[&str]| {
        let mut all = vec!["exec", "vps2", "--"];
        all.extend_from_slice(words);
        crate::try_world(&all)
    };

    let found = on_vps2(&["vigie-agent", "diagnose"]).exits(6);
    assert!(found.stdout.contains("sylion-backend is stopped"), "{found:?}");
    assert!(found.stdout.contains("vigie-agent run backend-502 --stack sylion"), "{found:?}");
    let one = on_vps2(&["vigie-agent", "diagnose", "backend-502", "-o", "json"]).exits(6).json();
    assert_eq!(one["targets"][0]["remedy"], "restart_backend", "{one:#}");
    let asked = on_vps2(&["vigie-agent", "run", "backend-502"]).exits(4);
    assert!(asked.stderr.contains("nothing was done"), "{asked:?}");
    let ran = on_vps2(&["vigie-agent", "run", "backend-502", "--yes"]).exits(0);
    assert!(ran.stdout.contains("verified: well again"), "{ran:?}");
    let journal = on_vps2(&["vigie-agent", "journal"]).exits(0).stdout;
    assert!(journal.contains("ordered here by root on vps2"), "{journal}");

    // The same without an agent: what is left to do is nothing.
    let _ = on_vps2(&["systemctl", "stop", "vigie-agent"]).exits(0);
    let again = on_vps2(&["vigie-agent", "run", "backend-502", "--yes"]).exits(0);
    assert!(again.stderr.contains("No agent runs on this host"), "{again:?}");
    let _ = on_vps2(&["systemctl", "start", "vigie-agent"]).exits(0);

    controller_returns();
    wait_until("the controller has taken note of it", || {
        let journal = on_vps2(&["vigie-agent", "journal"]).exits(0).stdout;
        let order = journal.lines().find(|line| line.contains("ordered here by"));
        let order = order.and_then(|line| line.split_whitespace().find(|word| word.len() == 36));
        order.is_some_and(|order| {
            journal.lines().any(|line| line.contains("acknowledged") && line.contains(order))
        })
    });
    let changes = ctl(&["changes", "-H", "vps2", "-o", "json"]).exits(0).stdout;
    assert!(changes.contains("root on vps2"), "{changes}");
}

/// An incident that is open when its host is mended by hand tells by whom and how.
#[test]
fn an_incident_tells_what_root_did_on_the_host() {
    let _ = world(&["reset", "all"]);
    let _ = world(&["fault", "vps2", "backend-stopped"]);
    let incident = || {
        let of_vps2 = open_incidents().into_iter().find(|incident| concerns(incident, "vps2"));
        of_vps2.and_then(|incident| incident["id"].as_str().map(str::to_owned))
    };
    wait_within(Duration::from_secs(120), "an incident opens", || incident().is_some());
    let id = incident().expect("an incident");
    fleet(&["controller", "stop"]);
    let ran =
        crate::try_world(&["exec", "vps2", "--", "vigie-agent", "run", "backend-502", "--yes"]).exits(0);
    assert!(ran.stdout.contains("verified: well again"), "{ran:?}");
    controller_returns();
    wait_until("the incident tells of it", || {
        let shown = ctl(&["incidents", "show", &id]).exits(0).stdout;
        shown.contains("done on the host by root on vps2") && shown.contains("compose_restart on sylion")
    });
}
