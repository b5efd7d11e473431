use std::time::Duration;

use model::time::WallTime;
use testkit::world::Host;

use super::*;
use crate::registry::{Ordinal, Wanted};
use crate::settings::Retention;
use crate::storage::feed::{self, Cause, Change, FeedPage, Kind};
use crate::storage::inbox::INBOX_JOBS_MAX;
use crate::storage::{identities, rows, schema};
use model::commit::NoFaults;

/// A writer over tables in memory, on a simulated host.
pub(crate) struct Desk {
    /// Held, so that its workers live.
    _host: Host,
    pub(crate) tables: Tables,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self::over(schema::in_memory())
    }

    pub(crate) fn over(db: Connection) -> Self {
        let host = Host::new(1);
        let retention = Retention { age: Duration::from_hours(1), bytes: 1 << 30 };
        let feed = Feed::open(&db, retention).unwrap();
        let (told, _) = watch::channel(0);
        let faults = Arc::new(NoFaults);
        let apply = Box::new(|_, _| {});
        let parts = WriterParts { db, feed, told, faults, apply };
        let tables = Tables::start(&host.world(), parts);
        Self { _host: host, tables }
    }

    /// Enqueues without waiting: what is enqueued together is one turn.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut Writing<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Reply<T> {
        self.tables.submit(Tick::NEVER, (), operation)
    }

    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> T {
        self.tables.write(|w| Ok(look(w.db)?)).await.unwrap()
    }
}

fn create(desk: &Desk, name: &str) -> Reply<()> {
    let identity = name.parse().unwrap();
    desk.submit(move |w| {
        identities::create(w, &identity, Wanted::default(), Cause::Service).map(drop)
    })
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_refuses_after_it_wrote_is_taken_back_alone() {
    let desk = Desk::new();
    let before = create(&desk, "before");
    let wrong = desk.submit(|w| {
        let identity = "wrong".parse().unwrap();
        identities::create(w, &identity, Wanted::default(), Cause::Service)?;
        w.effects.push(Effect::Revoke(Ordinal(7)));
        Err::<(), _>(Refusal::new(RefusalKind::Forbidden, "after all").into())
    });
    let after = create(&desk, "after");
    assert_eq!(settle(before).await, Ok(()));
    assert_eq!(settle(wrong).await.unwrap_err().kind, RefusalKind::Forbidden);
    assert_eq!(settle(after).await, Ok(()));
    assert_eq!(desk.tables.taken_back(), 1);
    let entries = desk.look(|db| rows::devices(db, "", 10)).await;
    let names: Vec<_> = entries.iter().map(|entry| entry.identity.as_str()).collect();
    assert_eq!(names, ["after", "before"]);
    let page = desk.look(|db| feed::read(db, 0, 10)).await;
    let FeedPage::Changes { changes, .. } = page else { panic!("{page:?}") };
    let told: Vec<_> = changes.iter().map(|one| (one.seq, one.identity.as_str())).collect();
    assert_eq!(told, [(1, "before"), (2, "after")], "no gap and nothing of what was taken back");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_read_costs_its_own_operation_alone() {
    let desk = Desk::new();
    settle(create(&desk, "damaged")).await.unwrap();
    let damage = "UPDATE identity SET auth = 9 WHERE device = 'damaged'";
    desk.look(move |db| db.execute(damage, [])).await;
    let (before, wrong, after) =
        (create(&desk, "before"), create(&desk, "damaged/m"), create(&desk, "after"));
    assert_eq!(settle(before).await, Ok(()));
    assert_eq!(settle(wrong).await.unwrap_err().kind, RefusalKind::Internal);
    assert_eq!(settle(after).await, Ok(()));
    // The same when something of it was written before.
    let wrong = desk.submit(|w| {
        let change = Change {
            kind: Kind::MethodInvoked,
            ord: Ordinal(1),
            identity: &"x".parse().unwrap(),
            version: 0,
            cause: Cause::Service,
            body: String::new(),
        };
        w.feed.append(w.db, WallTime(0), &change)?;
        Ok(rows::entry(w.db, &"damaged".parse().unwrap())?)
    });
    let last = create(&desk, "last");
    assert_eq!(settle(wrong).await.unwrap_err().kind, RefusalKind::Internal);
    assert_eq!(settle(last).await, Ok(()));
    assert_eq!(desk.tables.taken_back(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_refuses_what_nobody_holds_room_for() {
    let desk = Desk::new();
    let nothing = |_: &mut Writing<'_>| Ok(());
    let taken: Vec<_> = (0..INBOX_JOBS_MAX).map(|_| desk.submit(nothing)).collect();
    let refused = settle(desk.submit(nothing)).await;
    assert_eq!(refused.unwrap_err().kind, RefusalKind::Throttled);
    assert_eq!(desk.tables.refused(), 1);
    for reply in taken {
        assert_eq!(settle(reply).await, Ok(()));
    }
    assert_eq!(settle(desk.submit(nothing)).await, Ok(()), "there is room again");
}
