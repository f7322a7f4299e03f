//! The backend's own statistics, and the three ways out of a blocked quota: index again, another plan, a counter set to
//! nothing.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, Row as _};
use vigie_proto::v1::{
    KnowledgeCounterPreviewRequest, KnowledgeCounterPreviewResult, KnowledgeCounterResetRequest,
    KnowledgeCounterResetResult, KnowledgePlanRequest, KnowledgePlanResult, KnowledgeReindexRequest,
    KnowledgeReindexResult, KnowledgeStatsRequest, KnowledgeStatsResult, ReindexedDocument, result,
};

use super::{Context, Fault, Limit, admin::Admin, enter, enter_base, missing, quota, text, today, unsigned};
use crate::host::postgres::{self, leave};

/// Documents when the request does not say.
const DOCUMENTS: u32 = 50;

/// Documents that were refused for want of quota, and those that were uploaded and forgotten. One that was uploaded a
/// moment ago is on its way.
const WAITING: &str = "
    SELECT id::text, tenant_id::text, status FROM knowledge_documents
    WHERE ($1::text = '' OR tenant_id = nullif($1::text, '')::uuid)
        AND ((status = 'error' AND error_reason ~* $2) OR (status = 'uploaded' AND updated_at < now() - interval '2 minutes')
            OR (status = 'indexing' AND updated_at < now() - interval '30 minutes'))
    ORDER BY tenant_id, created_at, id LIMIT 1000";

/// Documents by id, whatever state they are in.
const NAMED: &str = "
    SELECT id::text, tenant_id::text, status FROM knowledge_documents
    WHERE ($1::text = '' OR tenant_id = nullif($1::text, '')::uuid) AND id = ANY($2::text[]::uuid[])
    ORDER BY tenant_id, created_at, id";

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn fault(error: sqlx::Error) -> Fault {
    postgres::fault(&error)
}

/// Asks the backend what it would say of a tenant, and holds the database against it.
pub(in crate::operations) async fn stats(
    request: KnowledgeStatsRequest,
    cx: &Context,
) -> Result<KnowledgeStatsResult, Fault> {
    let (stack, mut session) = enter(cx, &request.stack).await?;
    if !missing(&mut session).await?.is_empty() {
        return Ok(KnowledgeStatsResult::default());
    }
    let rows = quota::tenants(&mut session, &request.tenant).await?;
    let Some(own) = rows.first().map(quota::tenant_of) else {
        leave(session).await;
        return Ok(KnowledgeStatsResult::default());
    };
    let admin = Admin::of(&stack, cx)?;
    let mut found = KnowledgeStatsResult {
        present: true,
        tenant: own.tenant.clone(),
        url: format!("{}/admin/knowledge/stats", admin.url),
        database_plan: own.plan.clone(),
        database_limit: own.limit,
        database_used: own.used,
        ..KnowledgeStatsResult::default()
    };
    match admin.ask(Method::GET, "/admin/knowledge/stats", &own.tenant).await {
        Err(word) => word.clone_into(&mut found.failure),
        Ok((status, said)) => {
            found.status = status.into();
            found.answered = status == 200 && said["docsIndexedCount"].is_number();
            if found.answered {
                // An index may have ended in between: what is compared is the database of now.
                let now = quota::tenants(&mut session, &own.tenant).await?;
                let used = now.first().map_or(own.used, |row| quota::tenant_of(row).used);
                compare(&said, used, cx, &mut found);
            }
        }
    }
    leave(session).await;
    Ok(found)
}

fn compare(said: &Value, used_now: u64, cx: &Context, found: &mut KnowledgeStatsResult) {
    found.backend_used = said["docsIndexedCount"].as_u64().unwrap_or_default();
    if found.backend_used != found.database_used {
        found.database_used = used_now;
    }
    if found.backend_used != found.database_used {
        found.mismatches.push("used".to_owned());
    }
    if let Some(plan) = said["planCode"].as_str() {
        found.backend_plan = text::text_up_to(&cx.host, plan, 64);
        if plan != found.database_plan {
            found.mismatches.push("plan".to_owned());
        }
    }
    if let Some(limit) = said["maxDailyIndexing"].as_u64() {
        found.backend_limit = limit;
        if limit != found.database_limit {
            found.mismatches.push("limit".to_owned());
        }
    }
}

/// A tenant's plan, its limit, and whether the plan is known.
async fn plan_of(session: &mut PgConnection, tenant: &str) -> Result<Option<(String, Limit)>, Fault> {
    let row = sqlx::query(
        "SELECT t.plan_code, p.limits_json->>'maxDailyIndexing' FROM tenants t LEFT JOIN plans p ON p.code = t.plan_code \
         WHERE t.id = $1::text::uuid FOR UPDATE OF t",
    )
    .bind(tenant)
    .fetch_optional(session)
    .await
    .map_err(fault)?;
    Ok(row.map(|row| (row.get(0), Limit::read(row.get::<Option<String>, _>(1).as_deref()))))
}

/// What a tenant has used today; `None` where there is no row.
async fn used(session: &mut PgConnection, tenant: &str, date: &str) -> Result<Option<u64>, Fault> {
    let row = sqlx::query(
        "SELECT docs_indexed_count::int8 FROM usage_counters_daily WHERE tenant_id = $1::text::uuid AND date = $2::text::date",
    )
    .bind(tenant)
    .bind(date)
    .fetch_optional(session)
    .await
    .map_err(fault)?;
    Ok(row.map(|row| unsigned(row.get(0))))
}

/// A runbook leaves these out where it has no value for them.
fn given(argument: &str, name: &str) -> Result<(), Fault> {
    if argument.is_empty() {
        return Err(Fault::refused("argument_missing", format!("`{name}` is not given")));
    }
    Ok(())
}

fn tenant_unknown(tenant: &str) -> Fault {
    Fault::refused("tenant_unknown", format!("there is no tenant {tenant}"))
        .hint("`vigiectl probe knowledge_quota` lists those that use their quota")
}

/// Puts a tenant on another plan.
pub(in crate::operations) async fn plan(
    request: KnowledgePlanRequest,
    cx: &Context,
) -> Result<KnowledgePlanResult, Fault> {
    given(&request.tenant, "tenant")?;
    given(&request.plan, "plan")?;
    let (_, mut session) = enter_base(cx, &request.stack).await?;
    let (date, _) = today(&mut session).await?;
    let mut change = session.begin().await.map_err(fault)?;
    let Some((before, limit_before)) = plan_of(&mut change, &request.tenant).await? else {
        return Err(tenant_unknown(&request.tenant));
    };
    if !request.from.is_empty() && request.from != before {
        let message = format!("tenant {} is on plan `{before}`, not on `{}`", request.tenant, request.from);
        return Err(Fault::refused("plan_changed", message).hint("look again before you change it"));
    }
    let plans: Vec<String> = sqlx::query("SELECT code FROM plans ORDER BY code LIMIT 100")
        .fetch_all(&mut *change)
        .await
        .map_err(fault)?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if !plans.contains(&request.plan) {
        return Err(Fault::refused("plan_unknown", format!("there is no plan `{}`", request.plan))
            .hint(format!("there are {}", plans.join(", "))));
    }
    sqlx::query("UPDATE tenants SET plan_code = $2 WHERE id = $1::text::uuid")
        .bind(&request.tenant)
        .bind(&request.plan)
        .execute(&mut *change)
        .await
        .map_err(fault)?;
    let Some((after, limit_after)) = plan_of(&mut change, &request.tenant).await? else {
        return Err(tenant_unknown(&request.tenant));
    };
    let used = used(&mut change, &request.tenant, &date).await?.unwrap_or_default();
    change.commit().await.map_err(fault)?;
    leave(session).await;
    Ok(KnowledgePlanResult {
        tenant: request.tenant,
        before,
        after,
        limit_before: limit_before.number(),
        limit_after: limit_after.number(),
        used,
    })
}

/// Shows the counter that a reset would lose.
pub(in crate::operations) async fn counter_preview(
    request: KnowledgeCounterPreviewRequest,
    cx: &Context,
) -> Result<KnowledgeCounterPreviewResult, Fault> {
    given(&request.tenant, "tenant")?;
    let (_, mut session) = enter_base(cx, &request.stack).await?;
    let (date, reset_in_min) = today(&mut session).await?;
    let Some((plan, limit)) = plan_of(&mut session, &request.tenant).await? else {
        return Err(tenant_unknown(&request.tenant));
    };
    let counted = used(&mut session, &request.tenant, &date).await?;
    leave(session).await;
    Ok(KnowledgeCounterPreviewResult {
        tenant: request.tenant,
        date,
        counted: counted.is_some(),
        used: counted.unwrap_or_default(),
        limit: limit.number(),
        plan,
        reset_in_min,
    })
}

/// Sets the counter to nothing, if it is still the one that was signed for.
pub(in crate::operations) async fn counter_reset(
    request: KnowledgeCounterResetRequest,
    cx: &Context,
) -> Result<KnowledgeCounterResetResult, Fault> {
    let Some(result::Operation::KnowledgeCounterPreview(seen)) = &cx.prepared else {
        return Err(Fault::refused("not_prepared", "nothing was shown of what would be lost")
            .hint("`vigiectl do knowledge_counter_reset` shows it before it is signed"));
    };
    if seen.tenant != request.tenant || !seen.counted {
        return Err(Fault::refused(
            "counter_changed",
            "there was no counter of this tenant when the order was prepared",
        )
        .hint(
            "nothing is counted, so that nothing blocks: look again with `vigiectl probe knowledge_quota`",
        ));
    }
    let (_, mut session) = enter_base(cx, &request.stack).await?;
    let (date, _) = today(&mut session).await?;
    if date != seen.date {
        return Err(Fault::refused(
            "counter_changed",
            format!("it is {date} by now, and the counters began anew"),
        )
        .hint("index again: `vigiectl do knowledge_reindex`"));
    }
    let done = sqlx::query(
        "UPDATE usage_counters_daily SET docs_indexed_count = 0 \
         WHERE tenant_id = $1::text::uuid AND date = $2::text::date AND docs_indexed_count = $3::int8",
    )
    .bind(&request.tenant)
    .bind(&date)
    .bind(i64::try_from(seen.used).unwrap_or(i64::MAX))
    .execute(&mut session)
    .await
    .map_err(fault)?;
    let after = used(&mut session, &request.tenant, &date).await?;
    leave(session).await;
    if done.rows_affected() == 0 {
        let now = after.map_or("gone".to_owned(), |used| used.to_string());
        return Err(Fault::refused(
            "counter_changed",
            format!("the counter is {now} by now, not {}", seen.used),
        )
        .hint("prepare the order again"));
    }
    Ok(KnowledgeCounterResetResult {
        tenant: request.tenant,
        date,
        before: seen.used,
        after: after.unwrap_or_default(),
    })
}

/// Has documents indexed again, one after the other.
pub(in crate::operations) async fn reindex(
    request: KnowledgeReindexRequest,
    cx: &Context,
) -> Result<KnowledgeReindexResult, Fault> {
    let (stack, mut session) = enter_base(cx, &request.stack).await?;
    let admin = Admin::of(&stack, cx)?;
    let rows = if request.documents.is_empty() {
        sqlx::query(WAITING).bind(&request.tenant).bind(quota::QUOTA_WORDS).fetch_all(&mut session).await
    } else {
        sqlx::query(NAMED).bind(&request.tenant).bind(&request.documents).fetch_all(&mut session).await
    };
    let mut found: Vec<ReindexedDocument> = rows
        .map_err(fault)?
        .iter()
        .map(|row| ReindexedDocument {
            id: row.get(0),
            tenant: row.get(1),
            before: row.get(2),
            ..Default::default()
        })
        .collect();
    if let Some(stray) = request.documents.iter().find(|id| !found.iter().any(|own| own.id == **id)) {
        return Err(Fault::refused(
            "document_unknown",
            format!("there is no document {stray} of this tenant"),
        )
        .hint("`vigiectl probe knowledge_quota` lists those that wait"));
    }
    let most = if request.limit == 0 { DOCUMENTS } else { request.limit } as usize;
    let (mut full, mut done) = (BTreeSet::new(), Vec::new());
    let total = found.len();
    for mut document in found.drain(..) {
        if done.len() >= most {
            break;
        }
        if full.contains(&document.tenant) {
            continue;
        }
        let path = format!("/admin/knowledge/documents/{}/reindex", document.id);
        match admin.ask(Method::POST, &path, &document.tenant).await {
            Ok((status, _)) => {
                document.status = status.into();
                document.outcome = match status {
                    200..=299 => "accepted",
                    429 => "quota",
                    400..=499 => "refused",
                    _ => "failed",
                }
                .to_owned();
            }
            Err(word) => {
                // A backend that does not answer will not answer the next one.
                document.outcome = "failed".to_owned();
                done.push(document);
                let told = told(&mut session, &admin, done, total).await?;
                let message = format!("the backend gives no answer on {}: {word}", admin.url);
                return Err(Fault::failed("admin_unreachable", message)
                    .hint("`vigiectl diagnose backend-502`; or set `admin_url` in /etc/vigie/agent.toml")
                    .partial(result::Operation::KnowledgeReindex(told)));
            }
        }
        if document.outcome == "quota" {
            full.insert(document.tenant.clone());
        }
        done.push(document);
    }
    let told = told(&mut session, &admin, done, total).await?;
    leave(session).await;
    if told.accepted == 0 && told.refused > 0 {
        let message = format!("the backend took none of {} documents again", told.refused);
        return Err(Fault::failed("reindex_refused", message)
            .hint("the result says what it answered; `quota` means that the limit is reached still")
            .partial(result::Operation::KnowledgeReindex(told)));
    }
    Ok(told)
}

/// What became of the documents, by their rows of now.
async fn told(
    session: &mut PgConnection,
    admin: &Admin,
    mut documents: Vec<ReindexedDocument>,
    total: usize,
) -> Result<KnowledgeReindexResult, Fault> {
    let ids: Vec<String> = documents.iter().map(|own| own.id.clone()).collect();
    for row in sqlx::query(NAMED).bind("").bind(&ids).fetch_all(session).await.map_err(fault)? {
        let id: String = row.get(0);
        if let Some(own) = documents.iter_mut().find(|own| own.id == id) {
            own.after = row.get(2);
        }
    }
    let count = |outcome: &dyn Fn(&str) -> bool| {
        u32::try_from(documents.iter().filter(|own| outcome(&own.outcome)).count()).unwrap_or(u32::MAX)
    };
    Ok(KnowledgeReindexResult {
        url: admin.url.clone(),
        accepted: count(&|outcome| outcome == "accepted"),
        refused: count(&|outcome| outcome != "accepted"),
        left: u32::try_from(total - documents.len()).unwrap_or(u32::MAX),
        documents,
    })
}
