//! `vigiectl hosts token NAME`: a join token with both pins.
//!
//! The controller makes the secret; which CA and which trust list the new agent is to believe is added here, from
//! what this machine learnt at login, so that the controller never chooses whom an agent trusts.

use data_encoding::HEXLOWER;
use serde_json::json;
use vigie_proto::{
    text::escape,
    token::Token,
    v1::{CreateJoinTokenRequest, CreateJoinTokenResponse},
};
use zeroize::Zeroizing;

use crate::{
    cli::Joining, client::Client, context::Settings, error::Error, exit::Exit, invocation::Invocation,
};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    name: String,
    joining: Joining,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let (token, expires_at_ms) = make(&client, &name, joining).await?;
    let output = &mut invocation.output;
    let text = Zeroizing::new(token.to_string());
    if output.format.is_text() {
        let until = output.talk.clock(expires_at_ms);
        let name = escape(&name, false).into_owned();
        output.say(format!(
            "For {name}, once, until {until}. On the host: vigie-agent enroll (token on stdin)"
        ));
        output.text(&text)?;
    } else {
        output.value(&json!({ "host": name, "token": *text, "expires_at_ms": expires_at_ms }))?;
    }
    Ok(Exit::Ok)
}

/// Has a token made, and completes it.
pub(super) async fn make(client: &Client, name: &str, joining: Joining) -> Result<(Token, i64), Error> {
    let request = CreateJoinTokenRequest {
        name: name.to_owned(),
        labels: joining.labels,
        ttl_s: 0,
        replace: joining.replace,
    };
    let made = client.hosts().create_join_token(request).await;
    let made = made.map_err(Error::rpc("no token was made"))?.into_inner();
    let expires_at_ms = made.expires_at_ms;
    Ok((compose(made, &client.context.settings)?, expires_at_ms))
}

/// The controller's part and ours.
fn compose(made: CreateJoinTokenResponse, settings: &Settings) -> Result<Token, Error> {
    let broken = |what: &str| Error::Enrolment(format!("its {what} is not one"));
    let pin = |text: &str| HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let secret = Zeroizing::new(made.secret);
    Ok(Token {
        id: made.token_id.parse().map_err(|_| broken("token id"))?,
        secret: Zeroizing::new(secret.as_slice().try_into().map_err(|_| broken("secret"))?),
        ca_pin: pin(&settings.controller_pin).ok_or_else(|| broken("CA pin in the context"))?,
        trust_list: Some(
            pin(&settings.trust_list_digest).ok_or_else(|| broken("trust list in the context"))?,
        ),
        address: made.enrolment_address,
    })
}

#[cfg(test)]
mod tests {
    use vigie_proto::id::TokenId;

    use super::*;
    use crate::context::tests::settings;

    #[test]
    fn both_pins_come_from_this_machine() {
        let id = TokenId::new();
        let made = CreateJoinTokenResponse {
            token_id: id.to_string(),
            secret: vec![1; 32],
            expires_at_ms: 0,
            enrolment_address: "vigie.example.com:7422".to_owned(),
        };
        let token: Token = compose(made.clone(), &settings()).unwrap().to_string().parse().unwrap();
        assert_eq!((token.id, token.ca_pin, token.trust_list), (id, [2; 32], Some([3; 32])));
        assert_eq!((*token.secret, token.address.as_str()), ([1; 32], "vigie.example.com:7422"));
        let short = CreateJoinTokenResponse { secret: vec![1; 31], ..made };
        assert!(compose(short, &settings()).is_err());
    }
}
