//! Who has used how much of their day, and which documents wait.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use vigie_proto::v1::{KnowledgeQuotaRequest, KnowledgeQuotaResult, StuckDocument, TenantQuota, UsageDay};

use super::{Context, Fault, Limit, enter, missing, small, text, today, unsigned};
use crate::host::postgres::{self, leave};

/// How many tenants and documents are told.
const TENANTS: i64 = 50;
const DOCUMENTS: i64 = 100;
/// The share of the quota from which a person should know.
const NEAR: f64 = 80.0;

/// Every tenant with its plan, its counter of today and its documents that are not indexed; those with trouble or the
/// most used first.
const QUOTAS: &str = "
    WITH day AS (SELECT (now() AT TIME ZONE 'UTC')::date AS today),
    waiting AS (
        SELECT tenant_id,
            count(*) FILTER (WHERE status = 'uploaded') AS uploaded,
            count(*) FILTER (WHERE status = 'indexing') AS indexing,
            count(*) FILTER (WHERE status = 'error' AND error_reason ~* $4) AS error_quota,
            count(*) FILTER (WHERE status = 'error' AND NOT coalesce(error_reason, '') ~* $4) AS error_other,
            count(*) FILTER (WHERE (status = 'uploaded' AND updated_at < now() - interval '10 minutes')
                OR (status = 'indexing' AND updated_at < now() - interval '30 minutes')) AS stuck,
            coalesce(extract(epoch FROM now() - min(updated_at)
                FILTER (WHERE status = 'error' AND error_reason ~* $4)), 0)::int8 AS oldest
        FROM knowledge_documents WHERE status <> 'indexed' GROUP BY tenant_id),
    done AS (
        SELECT tenant_id, count(*) AS indexed FROM knowledge_documents, day
        WHERE status = 'indexed' AND updated_at >= day.today::timestamp AT TIME ZONE 'UTC' GROUP BY tenant_id)
    SELECT t.id::text, t.plan_code, p.code IS NOT NULL, p.limits_json->>'maxDailyIndexing',
        coalesce(u.docs_indexed_count, 0)::int8, coalesce(w.uploaded, 0), coalesce(w.indexing, 0),
        coalesce(w.error_quota, 0), coalesce(w.error_other, 0), coalesce(w.stuck, 0), coalesce(w.oldest, 0),
        coalesce(d.indexed, 0), count(*) OVER ()
    FROM tenants t CROSS JOIN day
    LEFT JOIN plans p ON p.code = t.plan_code
    LEFT JOIN usage_counters_daily u ON u.tenant_id = t.id AND u.date = day.today
    LEFT JOIN waiting w ON w.tenant_id = t.id
    LEFT JOIN done d ON d.tenant_id = t.id
    WHERE $1::text = '' OR t.id = nullif($1::text, '')::uuid
    ORDER BY coalesce(w.error_quota, 0) + coalesce(w.error_other, 0) + coalesce(w.stuck, 0) > 0 DESC,
        CASE WHEN p.limits_json->>'maxDailyIndexing' ~ '^[0-9]{1,9}$'
            THEN coalesce(u.docs_indexed_count, 0)::float8 / greatest((p.limits_json->>'maxDailyIndexing')::int8, 1) ELSE 0 END DESC,
        t.id
    LIMIT $2::int8 OFFSET $3::int8";

const DAYS: &str = "
    SELECT tenant_id::text, date::text, docs_indexed_count::int8, rag_queries_count::int8 FROM usage_counters_daily
    WHERE date > (now() AT TIME ZONE 'UTC')::date - 5 AND date <= (now() AT TIME ZONE 'UTC')::date
        AND tenant_id = ANY($1::text[]::uuid[])
    ORDER BY date DESC";

const STUCK: &str = "
    SELECT id::text, tenant_id::text, status, coalesce(error_reason, ''),
        greatest(extract(epoch FROM now() - updated_at), 0)::int8, count(*) OVER (), error_reason ~* $3
    FROM knowledge_documents
    WHERE status <> 'indexed' AND tenant_id = ANY($1::text[]::uuid[]) ORDER BY updated_at, id LIMIT $2::int8";

/// How the backend words a refusal for want of quota (`Daily indexing limit reached: 5/5`), as a regular expression of
/// PostgreSQL, in lower case. Nothing shorter: "quota" and "limit reached" are what providers of embeddings say of
/// themselves, and indexing again does not help against those.
pub(super) const QUOTA_WORDS: &str = "daily indexing limit reached";

/// Shows quotas.
pub(in crate::operations) async fn quota(
    request: KnowledgeQuotaRequest,
    cx: &Context,
) -> Result<KnowledgeQuotaResult, Fault> {
    let (_, mut session) = enter(cx, &request.stack).await?;
    let mut result =
        KnowledgeQuotaResult { missing_tables: missing(&mut session).await?, ..Default::default() };
    if result.missing_tables.is_empty() {
        result.present = true;
        read(&mut session, &request.tenant, cx, &mut result).await?;
    }
    leave(session).await;
    Ok(result)
}

async fn read(
    session: &mut PgConnection,
    tenant: &str,
    cx: &Context,
    result: &mut KnowledgeQuotaResult,
) -> Result<(), Fault> {
    let fault = |error: sqlx::Error| postgres::fault(&error);
    (result.date, result.reset_in_min) = today(session).await?;
    let rows = tenants(session, tenant).await?;
    result.tenants_total = rows.first().map_or(0, |row| small(row.get(12)));
    result.truncated = result.tenants_total as usize > rows.len();
    result.tenant_unknown = !tenant.is_empty() && rows.is_empty();
    result.tenants = rows.iter().map(tenant_of).collect();
    let ids: Vec<String> = result.tenants.iter().map(|own| own.tenant.clone()).collect();
    let mut days: BTreeMap<String, Vec<UsageDay>> = BTreeMap::new();
    for row in sqlx::query(DAYS).bind(&ids).fetch_all(&mut *session).await.map_err(fault)? {
        let day = UsageDay { date: row.get(1), indexed: unsigned(row.get(2)), queries: unsigned(row.get(3)) };
        days.entry(row.get(0)).or_default().push(day);
    }
    for own in &mut result.tenants {
        own.days = days.remove(&own.tenant).unwrap_or_default();
    }
    let stuck = sqlx::query(STUCK).bind(&ids).bind(DOCUMENTS).bind(QUOTA_WORDS);
    for row in stuck.fetch_all(&mut *session).await.map_err(fault)? {
        result.documents_total = small(row.get(5));
        let kind = match row.get::<Option<bool>, _>(6) {
            Some(true) => "quota",
            Some(false) => "other",
            None => "",
        };
        result.documents.push(StuckDocument {
            id: row.get(0),
            tenant: row.get(1),
            status: row.get(2),
            reason: text::text_up_to(&cx.host, row.get(3), 300),
            kind: kind.to_owned(),
            age_s: unsigned(row.get(4)),
        });
    }
    Ok(())
}

/// The tenants' rows: one, or those that matter.
pub(super) async fn tenants(session: &mut PgConnection, tenant: &str) -> Result<Vec<PgRow>, Fault> {
    sqlx::query(QUOTAS)
        .bind(tenant)
        .bind(TENANTS)
        .bind(0_i64)
        .bind(QUOTA_WORDS)
        .fetch_all(session)
        .await
        .map_err(|error| postgres::fault(&error))
}

pub(super) fn tenant_of(row: &PgRow) -> TenantQuota {
    let limit = Limit::read(row.get::<Option<String>, _>(3).as_deref());
    let used = unsigned(row.get(4));
    let (percent, level) = judged(limit, used, row.get(2));
    TenantQuota {
        tenant: row.get(0),
        plan: row.get(1),
        plan_known: row.get(2),
        limit_state: limit.word().to_owned(),
        limit: unsigned(limit.number()),
        used,
        percent,
        level: level.to_owned(),
        uploaded: small(row.get(5)),
        indexing: small(row.get(6)),
        error_quota: small(row.get(7)),
        error_other: small(row.get(8)),
        stuck: small(row.get(9)),
        oldest_error_s: unsigned(row.get(10)),
        indexed_today: small(row.get(11)),
        days: Vec::new(),
    }
}

/// The share of the limit that is used, and what that means.
fn judged(limit: Limit, used: u64, plan_known: bool) -> (f64, &'static str) {
    match limit {
        Limit::Set(limit) if used >= limit => {
            (if limit == 0 { 100.0 } else { share(used, limit) }, "reached")
        }
        Limit::Set(limit) if share(used, limit) >= NEAR => (share(used, limit), "near"),
        Limit::Set(limit) => (share(used, limit), "ok"),
        Limit::Unlimited => (0.0, "unlimited"),
        Limit::Missing if plan_known => (0.0, "unlimited"),
        Limit::Missing | Limit::Invalid => (0.0, "unknown"),
    }
}

fn share(used: u64, limit: u64) -> f64 {
    used as f64 * 100.0 / limit as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statement matches without regard to case, and the words hold nothing that a regular expression would read
    /// otherwise.
    #[test]
    fn a_providers_quota_is_not_the_tenants() {
        let is_quota = |said: &str| said.to_lowercase().contains(QUOTA_WORDS);
        assert!(QUOTA_WORDS.chars().all(|c| c.is_ascii_lowercase() || c == ' '));
        assert!(is_quota("Daily indexing limit reached: 100/100"));
        assert!(is_quota("job 17: daily indexing limit reached: 5/5"));
        for other in [
            "You exceeded your current quota, please check your plan and billing details",
            "429 Too Many Requests: rate limit reached for text-embedding-3-small",
            "Disk quota exceeded",
            "",
        ] {
            assert!(!is_quota(other), "{other}");
        }
    }

    #[test]
    fn levels() {
        assert_eq!(judged(Limit::Set(5), 5, true), (100.0, "reached"));
        assert_eq!(judged(Limit::Set(5), 4, true), (80.0, "near"));
        assert_eq!(judged(Limit::Set(100), 79, true), (79.0, "ok"));
        assert_eq!(judged(Limit::Set(0), 0, true).1, "reached");
        assert_eq!(judged(Limit::Missing, 7, true).1, "unlimited");
        assert_eq!(judged(Limit::Missing, 7, false).1, "unknown");
        assert_eq!(judged(Limit::Invalid, 7, true).1, "unknown");
    }
}
