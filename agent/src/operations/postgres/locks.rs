//! Who waits for whom, to the root of each chain.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;
use vigie_proto::v1::{
    PostgresBlocker, PostgresLocksRequest, PostgresLocksResult, PostgresPrepared, PostgresWaiter,
};

use super::{
    enter, kinds, server,
    sessions::{self, Session, Sessions, told_of},
    shown,
};
use crate::{
    host::postgres,
    operations::{Context, Fault},
};

/// How many waiters are told.
const WAITERS: usize = 100;
/// A chain longer than this is none that anybody reads.
const CHAIN: usize = 32;

/// What each waits for. A wait for another's row is a wait for its transaction, and names no relation.
const AWAITED: &str = "
    SELECT l.pid, l.mode || CASE WHEN l.relation IS NULL THEN ' on ' || l.locktype
                                 ELSE ' on ' || l.relation::regclass::text END
    FROM pg_locks l WHERE NOT l.granted
    AND (l.relation IS NULL OR l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))";

/// Transactions that were prepared for a commit in two phases and that nobody has ended, and who waits for each. Their locks
/// belong to no session; what ties them together is the virtual transaction under which they were taken.
const PREPARED: &str = "
    SELECT p.gid, p.owner::text, p.database::text,
           floor(extract(epoch FROM clock_timestamp() - p.prepared))::int8,
           ARRAY(SELECT DISTINCT w.pid FROM pg_locks w WHERE NOT w.granted AND w.pid IS NOT NULL AND (
               (w.locktype = 'transactionid' AND w.transactionid = p.transaction)
               OR EXISTS (
                   SELECT 1 FROM pg_locks own JOIN pg_locks h ON h.virtualtransaction = own.virtualtransaction
                   WHERE own.pid IS NULL AND own.locktype = 'transactionid' AND own.transactionid = p.transaction
                   AND h.pid IS NULL AND h.granted AND h.locktype = w.locktype
                   AND h.database IS NOT DISTINCT FROM w.database AND h.relation IS NOT DISTINCT FROM w.relation
                   AND h.page IS NOT DISTINCT FROM w.page AND h.tuple IS NOT DISTINCT FROM w.tuple
                   AND h.classid IS NOT DISTINCT FROM w.classid AND h.objid IS NOT DISTINCT FROM w.objid
                   AND h.locktype <> 'transactionid')))
    FROM pg_prepared_xacts p ORDER BY p.prepared LIMIT 50";

/// A prepared transaction, and the sessions that wait for it directly.
struct Prepared {
    gid: String,
    owner: String,
    database: String,
    age_s: u64,
    waiting: Vec<i32>,
}

/// Tells who waits for whom.
pub(in crate::operations) async fn locks(
    request: PostgresLocksRequest,
    cx: &Context,
) -> Result<PostgresLocksResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresLocksResult::default());
    };
    let mut session = enter(&server, cx).await?;
    let read = async {
        let found = sessions::from_server(&mut session).await?;
        let awaited = sqlx::query(AWAITED).fetch_all(&mut session).await?;
        let awaited = awaited
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<BTreeMap<i32, String>, sqlx::Error>>()?;
        // Almost nobody has any, and only where somebody waits is one in the way.
        let prepared = if found.all.iter().any(|session| session.blocked_by.contains(&0)) {
            sqlx::query(PREPARED).fetch_all(&mut session).await?
        } else {
            Vec::new()
        };
        let prepared = prepared
            .iter()
            .map(|row| {
                Ok(Prepared {
                    gid: row.try_get(0)?,
                    owner: row.try_get(1)?,
                    database: row.try_get(2)?,
                    age_s: sessions::number(row.try_get(3)?),
                    waiting: row.try_get(4)?,
                })
            })
            .collect::<Result<Vec<_>, sqlx::Error>>()?;
        Ok((found, awaited, prepared))
    };
    let read = read.await;
    postgres::leave(session).await;
    let (found, awaited, prepared) = read.map_err(|error: sqlx::Error| postgres::fault(&error))?;
    Ok(told(&found, &awaited, &prepared, &server.service, cx))
}

fn told_of_prepared(prepared: &Prepared, found: &Sessions, cx: &Context) -> PostgresPrepared {
    let (blocks, longest_wait_s) = behind(found, &prepared.waiting);
    PostgresPrepared {
        gid: shown(cx, &prepared.gid),
        owner: prepared.owner.clone(),
        database: prepared.database.clone(),
        age_s: prepared.age_s,
        blocks,
        longest_wait_s,
    }
}

/// How many wait for one of these sessions or are one of them, and for how long.
fn behind(found: &Sessions, first: &[i32]) -> (u32, u64) {
    let waits = waiting(found).filter(|waiter| {
        first.contains(&pid(waiter)) || chain_of_all(found, waiter).iter().any(|pid| first.contains(pid))
    });
    waits.fold((0, 0), |(blocks, longest), waiter| (blocks + 1, longest.max(waited(waiter))))
}

/// A session at the root of a chain, and who waits for it.
pub(super) struct Root<'a> {
    pub session: &'a Session,
    pub blocks: u32,
    pub longest_wait_s: u64,
}

/// The sessions that others wait for and that wait for nobody, the one that blocks most first. A lock of a prepared
/// transaction belongs to no session, and has no root here.
pub(super) fn roots(found: &Sessions) -> Vec<Root<'_>> {
    let mut waits: BTreeMap<i32, (u32, u64)> = BTreeMap::new();
    for waiter in waiting(found) {
        for root in ends(found, waiter) {
            let (blocks, longest) = waits.entry(root).or_default();
            *blocks += 1;
            *longest = (*longest).max(waited(waiter));
        }
    }
    let mut roots: Vec<Root<'_>> = waits
        .into_iter()
        .filter_map(|(pid, (blocks, longest_wait_s))| {
            Some(Root { session: by_pid(found, pid)?, blocks, longest_wait_s })
        })
        .collect();
    roots.sort_by_key(|root| (std::cmp::Reverse(root.blocks), root.session.told.pid));
    roots
}

fn told(
    found: &Sessions,
    awaited: &BTreeMap<i32, String>,
    prepared: &[Prepared],
    service: &str,
    cx: &Context,
) -> PostgresLocksResult {
    let mut waiters: Vec<&Session> = waiting(found).collect();
    waiters.sort_by_key(|waiter| std::cmp::Reverse(waited(waiter)));
    let told = |waiter: &&Session| PostgresWaiter {
        session: Some(told_of(waiter, cx)),
        waited_s: waited(waiter),
        lock: awaited.get(&pid(waiter)).cloned().unwrap_or_default(),
        chain: chain(found, waiter).into_iter().map(i32::unsigned_abs).collect(),
    };
    let blocker = |root: Root<'_>| {
        let why_not = kinds::spared(&root.session.told.kind).unwrap_or_default().to_owned();
        PostgresBlocker {
            session: Some(told_of(root.session, cx)),
            blocks: root.blocks,
            longest_wait_s: root.longest_wait_s,
            may_be_ended: why_not.is_empty(),
            why_not,
        }
    };
    PostgresLocksResult {
        present: true,
        service: service.to_owned(),
        waiting: u32::try_from(waiters.len()).unwrap_or(u32::MAX),
        longest_wait_s: waiters.first().map_or(0, |waiter| waited(waiter)),
        truncated: waiters.len() > WAITERS,
        waiters: waiters.iter().take(WAITERS).map(told).collect(),
        roots: roots(found).into_iter().map(blocker).collect(),
        prepared: prepared.iter().map(|own| told_of_prepared(own, found, cx)).collect(),
    }
}

fn waiting(found: &Sessions) -> impl Iterator<Item = &Session> {
    found.all.iter().filter(|session| !session.blocked_by.is_empty())
}

/// How long a session waits: it asked for the lock some time after its statement began, which is all that is known.
fn waited(session: &Session) -> u64 {
    session.told.query_s
}

fn pid(session: &Session) -> i32 {
    i32::try_from(session.told.pid).unwrap_or_default()
}

fn by_pid(found: &Sessions, wanted: i32) -> Option<&Session> {
    found.all.iter().find(|session| pid(session) == wanted)
}

/// Along the first blocker of each, to the root; a circle is left to PostgreSQL, which breaks it within a second.
fn chain(found: &Sessions, from: &Session) -> Vec<i32> {
    let mut chain = Vec::new();
    let mut next = from.blocked_by.first().copied();
    while let Some(pid) = next.filter(|pid| !chain.contains(pid) && chain.len() < CHAIN) {
        chain.push(pid);
        next = by_pid(found, pid).and_then(|blocker| blocker.blocked_by.first().copied());
    }
    chain
}

/// Everybody at the end of any of a waiter's chains.
fn ends(found: &Sessions, from: &Session) -> BTreeSet<i32> {
    let waits = |pid: &i32| by_pid(found, *pid).is_some_and(|blocker| !blocker.blocked_by.is_empty());
    chain_of_all(found, from).into_iter().filter(|pid| !waits(pid)).collect()
}

/// Everybody in any of a waiter's chains.
fn chain_of_all(found: &Sessions, from: &Session) -> BTreeSet<i32> {
    let (mut open, mut seen) = (from.blocked_by.clone(), BTreeSet::new());
    while let Some(pid) = open.pop() {
        if seen.insert(pid)
            && let Some(blocker) = by_pid(found, pid)
        {
            open.extend(&blocker.blocked_by);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::PostgresSession;

    use super::*;

    fn session(pid: u32, query_s: u64, blocked_by: &[i32]) -> Session {
        let told = PostgresSession { pid, query_s, kind: "client".to_owned(), ..PostgresSession::default() };
        Session { told, query: String::new(), blocked_by: blocked_by.to_vec(), client_backend: true }
    }

    #[test]
    fn chains_end_at_their_roots() {
        let all = vec![
            session(1, 0, &[]),
            session(2, 50, &[1]),
            session(3, 40, &[2]),
            session(4, 30, &[2, 5]),
            session(5, 0, &[]),
            session(6, 1, &[7]),
            session(7, 1, &[6]),
            session(8, 9, &[0]),
        ];
        let found = Sessions { source: "server", max_connections: 100, reserved: 3, all };
        let roots: Vec<_> = roots(&found)
            .iter()
            .map(|root| (root.session.told.pid, root.blocks, root.longest_wait_s))
            .collect();
        assert_eq!(roots, [(1, 3, 50), (5, 1, 30)], "a circle and a prepared transaction have no root");
        assert_eq!(chain(&found, &found.all[3]), [2, 1]);
        assert_eq!(chain(&found, &found.all[5]), [7, 6]);
        assert_eq!(behind(&found, &[8]), (1, 9), "who waits for a prepared transaction");
        assert_eq!(behind(&found, &[2]), (3, 50), "and who waits for those");
    }
}
