//! Tokens, and what they are exchanged for: certificates, hosts, the first operator.

use prost::Message as _;
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use vigie_proto::{
    id::{HostId, TokenId},
    v1::SignedTrustList,
};
use vigie_transport::identity::{Identity, Role};

use super::{audit, bytes, decode, hosts, parse, signed, unsigned};
use crate::{
    audit::{Intent, Kind},
    authority::Certificate,
    error::TokenDenial,
    store::{
        AgentEnrolled, CertificateRow, Enrolment, HostRow, Issue, NewOperator, RedeemError, Redemption,
        StoreError, Token, TokenFor, model::Verdict,
    },
};

const WHAT: &str = "a token";

pub(super) async fn add(
    connection: &mut SqliteConnection,
    intent: &Intent,
    token: &Token,
) -> Result<(), StoreError> {
    let (role, host_name, labels, replaces) = match &token.grants {
        TokenFor::Agent { host_name, labels, replaces } => {
            ("agent", host_name.as_str(), hosts::labels_to_text(labels), *replaces)
        }
        TokenFor::Operator => ("operator", "", "{}".to_owned(), false),
    };
    let added = sqlx::query(
        "INSERT INTO tokens (id, role, secret_sha256, host_name, labels, replaces, expires_at_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )
    .bind(token.id.to_string())
    .bind(role)
    .bind(&token.secret_sha256[..])
    .bind(host_name)
    .bind(labels)
    .bind(replaces)
    .bind(token.expires_at_ms)
    .execute(&mut *connection)
    .await?;
    if added.rows_affected() == 0 {
        return Err(StoreError::TokenExists(token.id));
    }
    audit::append(connection, &intent.line(Kind::Done)).await?;
    Ok(())
}

/// One exchange, within a transaction: the caller commits it or rolls it back.
pub(super) async fn redeem(
    connection: &mut SqliteConnection,
    redemption: &Redemption,
    issue: &dyn Issue,
) -> Result<Enrolment, RedeemError> {
    let row = sqlx::query("SELECT * FROM tokens WHERE id = ?")
        .bind(redemption.token.to_string())
        .fetch_optional(&mut *connection)
        .await?
        .ok_or(TokenDenial::Unknown)?;
    let token = read(&row)?;
    let verdict = token.judge(&redemption.secret, &redemption.key_sha256, redemption.now_ms)?;
    match (&token.grants, &redemption.operator, verdict) {
        (TokenFor::Agent { .. }, Some(_), _) | (TokenFor::Operator, None, _) => Err(RedeemError::WrongRole),
        (_, _, Verdict::Repeat) => repeat(connection, &row).await,
        (TokenFor::Agent { .. }, None, Verdict::Honour) => agent(connection, redemption, &token, issue).await,
        (TokenFor::Operator, Some(operator), Verdict::Honour) => {
            first_operator(connection, redemption, operator, issue).await
        }
    }
}

async fn agent(
    connection: &mut SqliteConnection,
    redemption: &Redemption,
    token: &Token,
    issue: &dyn Issue,
) -> Result<Enrolment, RedeemError> {
    let TokenFor::Agent { host_name, labels, replaces } = &token.grants else {
        return Err(RedeemError::WrongRole);
    };
    let trust_list = trust_list(connection).await?.ok_or(RedeemError::NoTrustList)?;
    let host = match (hosts::by_name(connection, host_name).await?, replaces) {
        (Some(_), false) => return Err(RedeemError::Taken(host_name.clone())),
        (Some(known), true) => HostRow {
            incarnation: known.incarnation + 1,
            enrolled_at_ms: redemption.now_ms,
            // A token without labels leaves the host's as they are.
            labels: if labels.is_empty() { known.labels } else { labels.clone() },
            connected_since_ms: 0,
            last_seen_ms: 0,
            state: None,
            ..known
        },
        (None, _) => HostRow {
            id: HostId::new(),
            name: host_name.clone(),
            labels: labels.clone(),
            incarnation: 1,
            enrolled_at_ms: redemption.now_ms,
            connected_since_ms: 0,
            last_seen_ms: 0,
            state: None,
        },
    };
    let certificate = issue.agent(host.id)?;
    hosts::enrol(connection, &host).await?;
    use_up(connection, redemption, &certificate, host.incarnation).await?;
    let detail = format!("host {} enrolled as {}, incarnation {}", host.name, host.id, host.incarnation);
    audit::append(connection, &redemption.intent.with_detail(&detail).line(Kind::Done)).await?;
    Ok(Enrolment {
        certificate: certificate.der,
        identity: certificate.identity,
        agent: Some(AgentEnrolled { host, trust_list }),
    })
}

async fn first_operator(
    connection: &mut SqliteConnection,
    redemption: &Redemption,
    operator: &NewOperator,
    issue: &dyn Issue,
) -> Result<Enrolment, RedeemError> {
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM operators").fetch_one(&mut *connection).await?;
    if known > 0 {
        return Err(TokenDenial::Claimed.into());
    }
    let certificate = issue.operator(&operator.name)?;
    sqlx::query("INSERT INTO operators (name, public_key, enrolled_at_ms) VALUES (?, ?, ?)")
        .bind(&operator.name)
        .bind(&operator.public_key[..])
        .bind(redemption.now_ms)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO trust_lists (version, list, received_at_ms) VALUES (?, ?, ?)")
        .bind(signed(operator.version))
        .bind(operator.trust_list.encode_to_vec())
        .bind(redemption.now_ms)
        .execute(&mut *connection)
        .await?;
    use_up(connection, redemption, &certificate, 0).await?;
    let detail = format!("first operator {}", operator.name);
    audit::append(connection, &redemption.intent.with_detail(&detail).line(Kind::Done)).await?;
    Ok(Enrolment { certificate: certificate.der, identity: certificate.identity, agent: None })
}

/// Notes the certificate down, and the token's use.
async fn use_up(
    connection: &mut SqliteConnection,
    redemption: &Redemption,
    certificate: &Certificate,
    incarnation: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO certificates (serial, identity, incarnation, not_after_ms, issued_at_ms, der)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(&certificate.serial)
    .bind(&certificate.identity)
    .bind(signed(incarnation))
    .bind(certificate.not_after_ms)
    .bind(redemption.now_ms)
    .bind(&certificate.der)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE tokens SET used_by = ?, certificate = ? WHERE id = ? AND used_by IS NULL")
        .bind(&redemption.key_sha256[..])
        .bind(&certificate.serial)
        .bind(redemption.token.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// The answer that a token's user was given before.
async fn repeat(connection: &mut SqliteConnection, token: &SqliteRow) -> Result<Enrolment, RedeemError> {
    let serial: &str = token.try_get("certificate")?;
    let row = sqlx::query("SELECT identity, incarnation, der FROM certificates WHERE serial = ?")
        .bind(serial)
        .fetch_one(&mut *connection)
        .await?;
    let identity: String = row.try_get("identity")?;
    let parsed: Identity = parse(&identity, "a certificate's identity")?;
    let agent = match parsed.role() {
        Role::Agent => {
            let host = parse(parsed.name(), "a certificate's identity")?;
            let host =
                hosts::by_id(connection, host).await?.ok_or(StoreError::Damaged { what: "an enrolment" })?;
            let trust_list = trust_list(connection).await?.ok_or(RedeemError::NoTrustList)?;
            let incarnation = unsigned(row.try_get("incarnation")?, "a certificate")?;
            Some(AgentEnrolled { host: HostRow { incarnation, ..host }, trust_list })
        }
        Role::Operator | Role::Tool | Role::Controller => None,
    };
    Ok(Enrolment { certificate: row.try_get("der")?, identity, agent })
}

pub(super) async fn trust_list(
    connection: &mut SqliteConnection,
) -> Result<Option<SignedTrustList>, StoreError> {
    let list: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT list FROM trust_lists ORDER BY version DESC LIMIT 1")
            .fetch_optional(connection)
            .await?;
    list.map(|list| decode(&list, "a trust list")).transpose()
}

pub(super) async fn certificate(
    pool: &SqlitePool,
    serial: &str,
) -> Result<Option<CertificateRow>, StoreError> {
    let row =
        sqlx::query("SELECT serial, identity, incarnation, not_after_ms FROM certificates WHERE serial = ?")
            .bind(serial)
            .fetch_optional(pool)
            .await?;
    row.map(|row| {
        Ok(CertificateRow {
            serial: row.try_get("serial")?,
            identity: row.try_get("identity")?,
            incarnation: unsigned(row.try_get("incarnation")?, "a certificate")?,
            not_after_ms: row.try_get("not_after_ms")?,
        })
    })
    .transpose()
}

fn read(row: &SqliteRow) -> Result<Token, StoreError> {
    let used_by: Option<&[u8]> = row.try_get("used_by")?;
    let grants = match row.try_get("role")? {
        "agent" => TokenFor::Agent {
            host_name: row.try_get("host_name")?,
            labels: hosts::labels_from_text(row.try_get("labels")?)?,
            replaces: row.try_get("replaces")?,
        },
        "operator" => TokenFor::Operator,
        _ => return Err(StoreError::Damaged { what: WHAT }),
    };
    Ok(Token {
        id: parse::<TokenId>(row.try_get("id")?, WHAT)?,
        secret_sha256: bytes(row.try_get("secret_sha256")?, WHAT)?,
        grants,
        expires_at_ms: row.try_get("expires_at_ms")?,
        used_by: used_by.map(|key| bytes(key, WHAT)).transpose()?,
    })
}
