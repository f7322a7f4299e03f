//! The packet filter. ufw is changed, and nothing else is; what the kernel really does with a connection is read from
//! the rules of iptables, whoever wrote them.

mod kernel;
mod reach;
mod ufw;

use vigie_proto::v1::{
    FirewallAllowPreviewRequest, FirewallAllowPreviewResult, FirewallAllowRequest, FirewallAllowResult,
    FirewallChangePreview, FirewallDenyPreviewRequest, FirewallDenyPreviewResult, FirewallDenyRequest,
    FirewallDenyResult, FirewallRule, FirewallStatusRequest, FirewallStatusResult, PortVerdict, result,
};

use super::{Context, Fault, text};
use crate::host::{
    child::{Child, Exit},
    stacks::compose::{cannot_run, last_words, timed_out},
};
use ufw::Ufw;

/// What is judged when the request names no ports.
const WEB: [u32; 2] = [80, 443];

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
        result.judged = !kernel.nftables;
        result.ports = ports.iter().map(|port| table.verdict(*port)).collect();
        if table.filters() {
            "iptables".clone_into(&mut result.kind);
            result.active = true;
        }
        table.policy.to_lowercase().clone_into(&mut result.default_incoming);
        if table.policy == "ACCEPT" {
            "allow".clone_into(&mut result.default_incoming);
        }
    }
    if let Some(table) = &kernel.table_v6 {
        result.judged_v6 = !kernel.nftables;
        result.ports_v6 = ports.iter().map(|port| table.verdict(*port)).collect();
        if table.filters() && result.kind == "none" {
            "iptables".clone_into(&mut result.kind);
            result.active = true;
        }
    }
    if kernel.nftables {
        // Its own language is not judged here, and what it drops no other rule lets in: whoever asks from outside sees what
        // it does.
        if result.kind == "none" {
            "nftables".clone_into(&mut result.kind);
        }
        result.active = true;
        result.ports.clear();
        result.ports_v6.clear();
    }
    let closed = |ports: &[PortVerdict]| ports.iter().filter(|own| !own.open).map(|own| own.port).collect();
    (result.closed, result.closed_v6) = (closed(&result.ports), closed(&result.ports_v6));
    for verdict in result.ports.iter_mut().chain(&mut result.ports_v6) {
        verdict.rule = text::text(&cx.host, &verdict.rule);
    }
    if let Some(ufw) = ufw {
        "ufw".clone_into(&mut result.kind);
        result.active = ufw.active || kernel.nftables;
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
    let refusal = match refusal(action, port, protocol, ufw.as_ref(), cx).await? {
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

/// Whether what is asked for is what happens already: of the rules about a port the first decides, for each family apart.
fn is_already(rules: &[FirewallRule], action: &str) -> bool {
    rules.iter().any(|rule| !rule.protocol.is_empty())
        && [false, true].into_iter().filter_map(|v6| decides(rules, v6)).all(|rule| rule.action == action)
}

fn decides(rules: &[FirewallRule], v6: bool) -> Option<&FirewallRule> {
    rules.iter().find(|rule| rule.v6 == v6)
}

/// A rule about the port in both protocols that says otherwise. ufw replaces a rule about the same port and protocol, and
/// puts one that it takes for another behind this one, where it decides nothing.
fn shadow<'a>(rules: &'a [FirewallRule], action: &str) -> Option<&'a FirewallRule> {
    let first = [false, true].into_iter().filter_map(|v6| decides(rules, v6));
    first.into_iter().find(|rule| rule.protocol.is_empty() && rule.action != action)
}

/// Why a change is not made.
async fn refusal(
    action: &str,
    port: u32,
    protocol: &str,
    ufw: Option<&Ufw>,
    cx: &Context,
) -> Result<Option<Fault>, Fault> {
    let Some(ufw) = ufw else {
        return Ok(Some(
            Fault::absent("firewall", "there is no ufw on this host")
                .hint("change its firewall, or its provider's, with its own tool"),
        ));
    };
    if !ufw.active {
        return Ok(Some(
            Fault::refused("firewall_inactive", "ufw is not active: a rule would change nothing")
                .hint("if a port is closed all the same, look at the provider's firewall"),
        ));
    }
    if let Some(rule) = shadow(&about(&ufw.rules, port, protocol), action) {
        let (there, from) = (rule.action.as_str(), &rule.from);
        return Ok(Some(
            Fault::refused(
                "firewall_shadowed",
                format!("ufw {action} {port}/{protocol} would decide nothing: `{port} {} IN {from}` comes before it", there.to_uppercase()),
            )
            .hint(format!("remove that one first, on the host: `ufw delete {there} {port}`")),
        ));
    }
    if action == "allow" {
        return Ok(None);
    }
    // Who is there is looked at now; ssh's own port is kept whether its server runs or not.
    Ok(reach::cut_off(port, protocol, cx.deadline).await?.map(|whom| {
        Fault::refused(
            "would_cut_off",
            format!(
                "port {port}/{protocol} is how {whom} is reached: denying it could leave nobody a way in"
            ),
        )
        .hint("do it on the host's console, where you can undo it")
    }))
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
    if let Some(fault) = refusal(action, port, protocol, ufw_now.as_ref(), cx).await? {
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
        Some(Fault::failed("firewall_failed", format!("`{what}` said yes, and it is not what ufw does now")))
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
    fn the_first_rule_about_a_port_decides() {
        let both = FirewallRule { protocol: String::new(), ..rule("deny", "", "Anywhere") };
        let exact = rule("allow", "tcp", "Anywhere");
        let shadowed = [both.clone(), exact.clone()];
        assert!(!is_already(&shadowed, "allow") && shadow(&shadowed, "allow").is_some());
        let wins = [exact.clone(), both.clone()];
        assert!(is_already(&wins, "allow") && shadow(&wins, "allow").is_none());
        assert!(shadow(std::slice::from_ref(&both), "allow").is_some(), "the new rule would come behind it");
        assert!(shadow(std::slice::from_ref(&both), "deny").is_none());
        let six = FirewallRule { v6: true, from: "Anywhere (v6)".to_owned(), ..both };
        assert!(!is_already(&[exact, six], "allow"), "one family is not the other");
    }
}
