//! `vigiectl login`: both keys are made here, and only their public halves leave.
//!
//! The first operator's trust list names that operator alone and is signed with the key that it names; its digest is
//! kept, and goes into every host's token.

use std::{path::Path, sync::Arc};

use data_encoding::HEXLOWER;
use prost::Message as _;
use serde_json::json;
use vigie_proto::{
    order::{Domain, SigningKey, digest},
    selector::is_host_name,
    token::Token,
    v1::{
        EnrolRequest, EnrolResponse, SignedTrustList, TrustList, TrustedOperator,
        enrolment_client::EnrolmentClient,
    },
};
use vigie_transport::{
    client::{Address, Keepalive, connect_over},
    credential::{Credential, certificates_to_pem, read_private},
    identity::{Identity, Role},
    network::Network,
    pin::Pin,
    tls::{ServerTrust, client_config},
};

use crate::{
    cli::Login,
    context::{Context, Settings},
    error::Error,
    exit::Exit,
    invocation::Invocation,
    keys::Keys,
};

pub(super) async fn run(invocation: &mut Invocation, login: Login) -> Result<Exit, Error> {
    let context = invocation.context.clone().unwrap_or_else(|| "default".to_owned());
    if invocation.home.has(&context)? && !login.replace {
        return Err(Error::usage(
            format!("you are logged in already, in the context `{context}`"),
            "name another one with --context NAME, or say --replace to give this one new keys",
        ));
    }
    let name = operator_name(login.name, &invocation.user)?;
    let token = read_token(invocation, &login.token_file).await?;
    let keys = Keys::of(invocation.home.state(&context)?);
    let pending = keys.pending()?;
    let trust_list = first_trust_list(&name, &pending.order);
    let trust_list_digest = HEXLOWER.encode(&digest(&trust_list.trust_list));
    let request = EnrolRequest {
        token_id: token.id.to_string(),
        secret: token.secret.to_vec(),
        certificate_request: pending.tls.certificate_request()?,
        trust_list: Some(trust_list),
        operator_name: name.clone(),
    };
    let response = enrol(invocation.network(), &token, request).await?;
    let settings = check(&response, &token, &name, trust_list_digest)?;
    let chain = response.certificate_chain.into_iter().map(Into::into).collect();
    let credential = Credential::new(chain, pending.tls).map_err(Error::Certificate)?;
    keys.keep(&credential, &pending.order)?;
    let context = Context { name: context, settings };
    invocation.home.save(&context)?;
    tell(invocation, &context)?;
    Ok(Exit::Ok)
}

/// The name that was given, or the user's made fit.
fn operator_name(given: Option<String>, user: &str) -> Result<String, Error> {
    let wrong = |name: &str| {
        Error::usage(
            format!("{name:?} cannot be an operator's name"),
            "choose one with --name: lower-case letters, digits, `.`, `-` and `_`, at most 63",
        )
    };
    match given {
        Some(name) if is_host_name(&name) => Ok(name),
        Some(name) => Err(wrong(&name)),
        None => {
            let fit = |c: char| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' }
            };
            let name: String = user.chars().map(fit).take(63).collect();
            let name = name.trim_start_matches(['.', '_', '-']);
            if is_host_name(name) { Ok(name.to_owned()) } else { Err(wrong(user)) }
        }
    }
}

/// The token among what was pasted: `init` may have said more around it.
async fn read_token(invocation: &mut Invocation, file: &Path) -> Result<Token, Error> {
    let text = if file == Path::new("-") {
        if invocation.asks() {
            invocation.output.ask("Token:");
        }
        invocation.read_input().await?
    } else {
        read_private(file)?
    };
    let word = text.split_whitespace().find(|word| word.starts_with("vig1."));
    let token: Token = word.unwrap_or_else(|| text.trim()).parse().map_err(Error::Token)?;
    if token.trust_list.is_some() {
        return Err(Error::usage("this is a host's token", "redeem it on the host: vigie-agent enroll"));
    }
    Ok(token)
}

/// Version 1: one operator, who signs it.
fn first_trust_list(name: &str, key: &SigningKey) -> SignedTrustList {
    let operator = TrustedOperator { person: name.to_owned(), public_key: key.public().to_bytes().to_vec() };
    let trust_list = TrustList { version: 1, operators: vec![operator] }.encode_to_vec();
    let signatures = vec![key.sign(Domain::TrustList, &trust_list)];
    SignedTrustList { trust_list, signatures }
}

async fn enrol(
    network: Arc<dyn Network>,
    token: &Token,
    request: EnrolRequest,
) -> Result<EnrolResponse, Error> {
    let address: Address =
        token.address.parse().map_err(|source| Error::Address { place: "token", source })?;
    let tls = client_config(ServerTrust::Pinned(Pin::from_bytes(token.ca_pin)), None)?;
    let channel = connect_over(network, address, tls, Keepalive::default()).await.map_err(Error::Connect)?;
    let answer = EnrolmentClient::new(channel).enrol(request).await;
    Ok(answer.map_err(Error::rpc("the token was not redeemed"))?.into_inner())
}

/// Holds the answer against what was asked for.
fn check(
    response: &EnrolResponse,
    token: &Token,
    name: &str,
    trust_list_digest: String,
) -> Result<Settings, Error> {
    let broken = |what: &str| Error::Enrolment(what.to_owned());
    let identity: Identity = response.identity.parse().map_err(|_| broken("it names nobody"))?;
    if identity.role() != Role::Operator || identity.name() != name {
        return Err(broken(&format!("it is for {identity}")));
    }
    let roots: Vec<_> = response.controller_roots.iter().map(|der| der.clone().into()).collect();
    let pinned = Pin::from_bytes(token.ca_pin);
    if !roots.iter().any(|root| Pin::of(root).is_ok_and(|pin| pin == pinned)) {
        return Err(broken("the CA that the token pins is not among the controller's"));
    }
    let _: Address =
        response.address.parse().map_err(|source| Error::Address { place: "controller's answer", source })?;
    Ok(Settings {
        address: response.address.clone(),
        operator: name.to_owned(),
        identity: identity.to_string(),
        controller_pin: pinned.to_string(),
        trust_list_digest,
        roots: certificates_to_pem(&roots),
    })
}

fn tell(invocation: &mut Invocation, context: &Context) -> Result<(), Error> {
    let output = &mut invocation.output;
    let settings = &context.settings;
    if !output.format.is_text() {
        return output.value(&json!({
            "context": context.name,
            "operator": settings.operator,
            "identity": settings.identity,
            "address": settings.address,
        }));
    }
    let mark = output.talk.green("✓");
    let who = output.talk.bold(&settings.operator);
    output.say(format!("{mark} You are {who} at {} ({}).", settings.address, settings.identity));
    output.say("Your keys are on this machine and nowhere else; back them up as you do your ssh keys.");
    output.say("Next: vigiectl hosts add root@HOST, then vigiectl status");
    Ok(())
}

#[cfg(test)]
mod tests {
    use vigie_proto::order::TrustedKeys;
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn the_users_name_is_made_fit() {
        assert_eq!(operator_name(None, "Ana María").unwrap(), "ana-mar-a");
        assert_eq!(operator_name(Some("bo".to_owned()), "ana").unwrap(), "bo");
        assert!(operator_name(None, "").is_err());
        assert!(operator_name(Some("Bo!".to_owned()), "ana").is_err());
    }

    #[test]
    fn the_first_trust_list_vouches_for_itself() {
        let list = first_trust_list("ana", &SigningKey::generate().unwrap());
        let keys = TrustedKeys::pinned(&list, &digest(&list.trust_list)).unwrap();
        assert_eq!(keys.version(), 1);
    }

    #[test]
    fn an_answer_for_somebody_else_is_refused() {
        let token = Token {
            id: vigie_proto::id::TokenId::new(),
            secret: Zeroizing::new([1; 32]),
            ca_pin: [2; 32],
            trust_list: None,
            address: "a:1".to_owned(),
        };
        for (identity, words) in [
            ("spiffe://fleet.test/operator/bo", "operator/bo"),
            ("spiffe://fleet.test/agent/ana", "agent/ana"),
            ("ana", "nobody"),
            ("spiffe://fleet.test/operator/ana", "pins"),
        ] {
            let response = EnrolResponse { identity: identity.to_owned(), ..Default::default() };
            let error = check(&response, &token, "ana", String::new()).unwrap_err().to_string();
            assert!(error.contains(words), "{identity}: {error}");
        }
    }
}
