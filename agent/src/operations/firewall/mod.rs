//! The packet filter. ufw is changed, and nothing else is; what the kernel really does with a connection is read from
//! the rules of iptables, whoever wrote them.

mod kernel;
mod ufw;

use std::collections::BTreeSet;

use vigie_proto::v1::{
    FirewallAllowPreviewRequest, FirewallAllowPreviewResult, FirewallAllowRequest, FirewallAllowResult,
    FirewallChangePreview, FirewallDenyPreviewRequest, FirewallDenyPreviewResult, FirewallDenyRequest,
    FirewallDenyResult, FirewallRule, FirewallStatusRequest, FirewallStatusResult, result,
};

use super::{Context, Fault, sockets, text};
use crate::host::{
    child::{Child, Exit},
    stacks::compose::{cannot_run, last_words, timed_out},
};
use ufw::Ufw;

/// What is judged when the request names no ports.
const WEB: [u32; 2] = [80, 443];

/// What ssh listens on unless somebody moved it; kept open whether it is seen listening or not.
const SSH: u32 = 22;

/// Programs that must stay within reach, by the name that the kernel knows them by (its first fifteen bytes).
const WITHIN_REACH: [(&str, &str); 3] =
    [("sshd", "ssh"), ("dropbear", "ssh"), ("vigie-controlle", "a controller of Vigie")];

/// Shows the firewall's state and rules.
pub(super) async fn status(
    request: FirewallStatusRequest,
    cx: &Context,
) -> Result<FirewallStatusResult, Fault> {
    let ports = if request.ports.is_empty() { WEB.to_vec() } else { request.ports };
    let (ufw, kernel) = tokio::join!(ufw(cx), kernel::read(cx.deadline));
    let (ufw, kernel) = (ufw?, kernel?);
    let mut result = FirewallStatusResult { kind: "none".to_owned(), ..FirewallStatusResult::default() };
    if let Some(table) = &kernel.table {
        result.judged = true;
        result.ports = ports.iter().map(|port| table.verdict(*port)).collect();
        result.closed = result.ports.iter().filter(|verdict| !verdict.open).map(|own| own.port).collect();
        for verdict in &mut result.ports {
            verdict.rule = text::text(&cx.host, &verdict.rule);
        }
        if table.filters() {
            "iptables".clone_into(&mut result.kind);
            result.active = true;
        }
        table.policy.to_lowercase().clone_into(&mut result.default_incoming);
        if table.policy == "ACCEPT" {
            "allow".clone_into(&mut result.default_incoming);
        }
    }
    if kernel.nftables && result.kind == "none" {
        // Its own language is not judged here: whoever asks from outside sees what it does.
        "nftables".clone_into(&mut result.kind);
        (result.active, result.judged) = (true, false);
        result.ports.clear();
        result.closed.clear();
    }
    if let Some(ufw) = ufw {
        "ufw".clone_into(&mut result.kind);
        result.active = ufw.active;
        result.rules = ufw.rules;
        if ufw.active {
            result.default_incoming = ufw.incoming;
            result.default_outgoing = ufw.outgoing;
        }
    }
    result.present = result.kind != "none";
    Ok(result)
}

/// What ufw says of itself; `None` where there is none.
async fn ufw(cx: &Context) -> Result<Option<Ufw>, Fault> {
    let Ok(child) = Child::new("ufw") else { return Ok(None) };
    let exit = child.args(["status", "verbose"]).env("LC_ALL", "C").run(cx.deadline).await;
    let exit = exit.map_err(cannot_run)?;
    if exit.timed_out {
        return Err(timed_out("ufw status"));
    }
    if !exit.success() {
        return Err(failed("ufw status", &exit));
    }
    Ok(Some(Ufw::parse(&exit.stdout.text().text)))
}

fn failed(what: &str, exit: &Exit) -> Fault {
    Fault::failed("firewall_failed", format!("`{what}` failed: {}", last_words(exit)))
        .hint("run it on the host as root: it says more there")
}

/// Tells what allowing a port would change.
pub(super) async fn allow_preview(
    request: FirewallAllowPreviewRequest,
    cx: &Context,
) -> Result<FirewallAllowPreviewResult, Fault> {
    let change = preview("allow", request.port, &request.protocol, cx).await?;
    Ok(FirewallAllowPreviewResult { change: Some(change) })
}

/// Tells what denying a port would change.
pub(super) async fn deny_preview(
    request: FirewallDenyPreviewRequest,
    cx: &Context,
) -> Result<FirewallDenyPreviewResult, Fault> {
    let change = preview("deny", request.port, &request.protocol, cx).await?;
    Ok(FirewallDenyPreviewResult { change: Some(change) })
}

async fn preview(
    action: &str,
    port: u32,
    protocol: &str,
    cx: &Context,
) -> Result<FirewallChangePreview, Fault> {
    let ufw = ufw(cx).await?;
    let before: Vec<FirewallRule> =
        ufw.as_ref().map(|ufw| about(&ufw.rules, port, protocol)).unwrap_or_default();
    let refusal = match refusal(action, port, protocol, ufw.as_ref()).await? {
        Some(fault) => fault.failure.message,
        None => String::new(),
    };
    Ok(FirewallChangePreview {
        port,
        protocol: protocol.to_owned(),
        action: action.to_owned(),
        already: is_already(&before, action),
        before,
        refusal,
        command: format!("ufw {action} {port}/{protocol}"),
    })
}

/// The rules about exactly this port, from anywhere.
fn about(rules: &[FirewallRule], port: u32, protocol: &str) -> Vec<FirewallRule> {
    let same = |rule: &&FirewallRule| {
        rule.port == port
            && (rule.protocol == protocol || rule.protocol.is_empty())
            && rule.direction == "in"
            && rule.from.starts_with("Anywhere")
    };
    rules.iter().filter(same).cloned().collect()
}

fn is_already(rules: &[FirewallRule], action: &str) -> bool {
    rules.iter().any(|rule| !rule.protocol.is_empty()) && rules.iter().all(|rule| rule.action == action)
}

/// Why a change is not made.
async fn refusal(action: &str, port: u32, protocol: &str, ufw: Option<&Ufw>) -> Result<Option<Fault>, Fault> {
    let Some(ufw) = ufw else {
        return Ok(Some(
            Fault::refused("firewall_absent", "there is no ufw on this host")
                .hint("change its firewall, or its provider's, with its own tool"),
        ));
    };
    if !ufw.active {
        return Ok(Some(
            Fault::refused("firewall_inactive", "ufw is not active: a rule would change nothing")
                .hint("if a port is closed all the same, look at the provider's firewall"),
        ));
    }
    if action == "allow" || protocol != "tcp" {
        return Ok(None);
    }
    // Who listens there is looked at now; ssh's own port is kept whether its server runs or not.
    let listeners = tokio::task::spawn_blocking(move || sockets::programs_on(port)).await;
    let listeners = listeners.map_err(|error| Fault::failed("proc_unreadable", error))??;
    Ok(cut_off(port, &listeners).map(|whom| {
        Fault::refused(
            "would_cut_off",
            format!("port {port} is how {whom} is reached: denying it could leave nobody a way in"),
        )
        .hint("do it on the host's console, where you can undo it")
    }))
}

/// Whom denying a port would leave without a way in.
fn cut_off(port: u32, listeners: &BTreeSet<String>) -> Option<&'static str> {
    let named = WITHIN_REACH.iter().find(|(program, _)| listeners.contains(*program));
    named.map(|(_, whom)| *whom).or((port == SSH).then_some("ssh"))
}

/// Allows a port.
pub(super) async fn allow(request: FirewallAllowRequest, cx: &Context) -> Result<FirewallAllowResult, Fault> {
    let shown = match &cx.prepared {
        Some(result::Operation::FirewallAllowPreview(preview)) => preview.change.clone(),
        _ => None,
    };
    let changed = change("allow", request.port, &request.protocol, shown, cx).await?;
    let result = FirewallAllowResult { before: changed.before, after: changed.after, output: changed.output };
    match changed.fault {
        None => Ok(result),
        Some(fault) => Err(fault.partial(result::Operation::FirewallAllow(result))),
    }
}

/// Denies a port.
pub(super) async fn deny(request: FirewallDenyRequest, cx: &Context) -> Result<FirewallDenyResult, Fault> {
    let shown = match &cx.prepared {
        Some(result::Operation::FirewallDenyPreview(preview)) => preview.change.clone(),
        _ => None,
    };
    let changed = change("deny", request.port, &request.protocol, shown, cx).await?;
    let result = FirewallDenyResult { before: changed.before, after: changed.after, output: changed.output };
    match changed.fault {
        None => Ok(result),
        Some(fault) => Err(fault.partial(result::Operation::FirewallDeny(result))),
    }
}

/// What became of a change.
struct Changed {
    before: Vec<FirewallRule>,
    after: Vec<FirewallRule>,
    output: Vec<String>,
    fault: Option<Fault>,
}

async fn change(
    action: &str,
    port: u32,
    protocol: &str,
    shown: Option<FirewallChangePreview>,
    cx: &Context,
) -> Result<Changed, Fault> {
    let shown = shown
        .filter(|shown| {
            (shown.port, shown.protocol.as_str(), shown.action.as_str()) == (port, protocol, action)
        })
        .ok_or_else(|| {
            Fault::refused("not_prepared", "nobody was shown what this would change")
                .hint("order it with `vigiectl do`, which shows it first")
        })?;
    let ufw_now = ufw(cx).await?;
    if let Some(fault) = refusal(action, port, protocol, ufw_now.as_ref()).await? {
        return Err(fault);
    }
    let before = ufw_now.map(|ufw| about(&ufw.rules, port, protocol)).unwrap_or_default();
    if before != shown.before {
        return Err(Fault::refused(
            "changed_meanwhile",
            format!("the rules about {port}/{protocol} are not those that were shown"),
        )
        .hint("order it again: it shows them as they are now"));
    }
    if is_already(&before, action) {
        return Ok(Changed { after: before.clone(), before, output: Vec::new(), fault: None });
    }
    let rule = format!("{port}/{protocol}");
    let exit = Child::new("ufw")
        .map_err(cannot_run)?
        .args([action, &rule])
        .env("LC_ALL", "C")
        // ufw starts iptables by its bare name.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .run(cx.deadline)
        .await
        .map_err(cannot_run)?;
    let output = text::last_lines(&cx.host, &exit.stdout.lines(), 20);
    let after = ufw(cx).await?.map(|ufw| about(&ufw.rules, port, protocol)).unwrap_or_default();
    let what = format!("ufw {action} {rule}");
    let fault = if exit.timed_out {
        Some(timed_out(&what))
    } else if !exit.success() {
        Some(failed(&what, &exit))
    } else if !is_already(&after, action) {
        Some(Fault::failed("firewall_failed", format!("`{what}` said yes, and the rule is not there")))
    } else {
        None
    };
    Ok(Changed { before, after, output, fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: &str, protocol: &str, from: &str) -> FirewallRule {
        FirewallRule {
            action: action.to_owned(),
            direction: "in".to_owned(),
            port: 443,
            protocol: protocol.to_owned(),
            to: "443/tcp".to_owned(),
            from: from.to_owned(),
            v6: false,
        }
    }

    #[test]
    fn what_is_already_so() {
        assert!(!is_already(&[], "allow"));
        assert!(is_already(&[rule("allow", "tcp", "Anywhere")], "allow"));
        assert!(!is_already(&[rule("deny", "tcp", "Anywhere")], "allow"));
        let some = [rule("allow", "tcp", "10.0.0.0/8"), rule("allow", "tcp", "Anywhere")];
        assert_eq!(about(&some, 443, "tcp").len(), 1, "a rule for some is none for all");
        assert!(about(&some, 443, "udp").is_empty());
    }

    #[test]
    fn nobody_is_cut_off() {
        let none = BTreeSet::new();
        assert_eq!(cut_off(22, &none), Some("ssh"));
        assert_eq!(cut_off(2222, &none), None);
        assert_eq!(cut_off(2222, &BTreeSet::from(["sshd".to_owned()])), Some("ssh"));
        assert_eq!(
            cut_off(7443, &BTreeSet::from(["vigie-controlle".to_owned()])),
            Some("a controller of Vigie")
        );
    }
}
