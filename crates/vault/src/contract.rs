//! Contract tests of the ports. Every adapter runs them on an empty instance of its own; they panic where a promise is
//! broken. Built for tests alone (feature `contract`).

use base::{DomainName, Ordinal, Timestamp};

use crate::{
    Epoch, Holder, KeyTable, ObjectId, RetentionClass, RootKeys, Scope, ScopeChange, ScopeId, ScopeQuery, ScopeRow,
    ScopeState, Slot, VaultError, WrapItem,
};

fn domain(name: &str) -> DomainName {
    DomainName::parse(name).expect("a domain name")
}

fn scope(name: &str, holder: Holder, year: u16) -> Scope {
    Scope { domain: domain(name), holder, retention: RetentionClass::parse("clinical").expect("a class"), year }
}

fn row(id: u8, scope: Scope, generation: u32, epoch: u64) -> ScopeRow {
    ScopeRow {
        id: ScopeId([id; 16]),
        scope,
        generation,
        epoch: Epoch(epoch),
        wrapped: vec![id; 60 + usize::from(id)],
        uses: 0,
        created: Timestamp(1_700_000_000_123),
        state: ScopeState::Living,
    }
}

fn slot(object: u8, scope: u8, fill: u8) -> Slot {
    Slot { object: ObjectId([object; 16]), scope: ScopeId([scope; 16]), wrapped: [fill; 60] }
}

async fn find(table: &dyn KeyTable, query: &ScopeQuery, max: usize) -> Vec<ScopeRow> {
    let page = table.find_scopes(query, None, max).await.unwrap();
    assert!(page.damaged.is_empty());
    page.rows
}

async fn get(table: &dyn KeyTable, id: u8) -> ScopeRow {
    find(table, &ScopeQuery::Id(ScopeId([id; 16])), 1).await.remove(0)
}

fn ids(rows: &[ScopeRow]) -> Vec<u8> {
    rows.iter().map(|row| row.id.0[0]).collect()
}

/// Everything [`KeyTable`] promises but durability, which the adapter's crash tests show. `table` is empty.
pub async fn key_table(table: &dyn KeyTable) {
    slots(table).await;
    scopes(table).await;
    changes(table).await;
    destruction(table).await;
    closing(table).await;
    secrets(table).await;
}

async fn slots(table: &dyn KeyTable) {
    let asked = [3u8, 1, 2, 3].map(|n| ObjectId([n; 16]));
    assert_eq!(table.get_slots(&[]).await.unwrap(), vec![]);
    assert_eq!(table.get_slots(&asked).await.unwrap(), vec![None; 4]);
    table.put_slots(&[]).await.unwrap();
    table.put_slots(&[slot(1, 9, 1), slot(3, 9, 3)]).await.unwrap();
    let got = table.get_slots(&asked).await.unwrap();
    assert_eq!(got, vec![Some(slot(3, 9, 3)), Some(slot(1, 9, 1)), None, Some(slot(3, 9, 3))], "the order asked");
    table.put_slots(&[slot(3, 8, 4)]).await.unwrap();
    assert_eq!(table.get_slots(&asked[..1]).await.unwrap(), vec![Some(slot(3, 8, 4))], "in place of the earlier");
    table.delete_slots(&[ObjectId([3; 16]), ObjectId([7; 16])]).await.unwrap();
    assert_eq!(table.get_slots(&asked[..2]).await.unwrap(), vec![None, Some(slot(1, 9, 1))]);
    table.delete_slots(&[ObjectId([1; 16])]).await.unwrap();
    let many: Vec<Slot> = (0..2_500u16)
        .map(|n| {
            let mut one = slot(0, 7, 5);
            one.object.0[..2].copy_from_slice(&n.to_be_bytes());
            one.object.0[15] = 0xEE;
            one
        })
        .collect();
    let objects: Vec<ObjectId> = many.iter().map(|slot| slot.object).collect();
    table.put_slots(&many).await.unwrap();
    let got: Vec<Slot> = table.get_slots(&objects).await.unwrap().into_iter().flatten().collect();
    assert_eq!(got, many, "batches of thousands");
    let scope = ScopeId([7; 16]);
    let page = table.find_slots(scope, None, 1_000).await.unwrap();
    assert_eq!(page, many[..1_000], "ordered by object");
    let rest = table.find_slots(scope, Some(page[999].object), 9_999).await.unwrap();
    assert_eq!(rest, many[1_000..], "those after");
    assert!(table.find_slots(ScopeId([6; 16]), None, 9).await.unwrap().is_empty());
    table.delete_slots(&objects).await.unwrap();
    assert!(table.get_slots(&objects).await.unwrap().iter().all(Option::is_none));
}

async fn scopes(table: &dyn KeyTable) {
    let patient = Holder::Record(Ordinal(7));
    let first = row(10, scope("ehr", patient, 2026), 0, 1);
    assert_eq!(table.insert_scope(&first).await.unwrap(), first);
    let late = row(11, scope("ehr", patient, 2026), 0, 1);
    assert_eq!(table.insert_scope(&late).await.unwrap(), first, "the first writer wins");
    assert!(find(table, &ScopeQuery::Id(late.id), 9).await.is_empty());
    let others = [row(12, scope("ehr", patient, 2026), 1, 1), late, row(13, scope("ehr", patient, 2027), 0, 2)];
    let expected = [others[0].clone(), first.clone(), others[2].clone()];
    assert_eq!(table.insert_scopes(&others).await.unwrap(), expected, "the first writer wins, row by row");
    for other in [
        row(14, scope("laboratory", patient, 2026), 0, 2),
        row(15, scope("ehr", Holder::Shared, 2026), 0, 2),
        row(16, scope("ehr", Holder::Unassigned(u64::MAX >> 1), 2026), 0, 2),
        row(17, scope("ehr", Holder::Record(Ordinal::UNKNOWN), 2026), 0, 2),
    ] {
        assert_eq!(table.insert_scope(&other).await.unwrap(), other, "every field is part of the name");
    }
    for (query, expected) in [
        (ScopeQuery::Id(first.id), vec![10]),
        (ScopeQuery::Scope(first.scope.clone()), vec![10, 12]),
        (ScopeQuery::Holder(domain("ehr"), patient), vec![10, 12, 13]),
        (ScopeQuery::LivingUnassigned(domain("ehr")), vec![16]),
        (ScopeQuery::LivingUnassigned(domain("laboratory")), vec![]),
        (ScopeQuery::Epoch(Epoch(1)), vec![10, 12]),
        (ScopeQuery::Epoch(Epoch(2)), vec![13, 14, 15, 16, 17]),
        (ScopeQuery::Epoch(Epoch(3)), vec![]),
    ] {
        let found = find(table, &query, 100).await;
        assert_eq!(ids(&found), expected, "{query:?}");
    }
    let query = ScopeQuery::Epoch(Epoch(2));
    let page = table.find_scopes(&query, None, 2).await.unwrap();
    assert_eq!(ids(&page.rows), vec![13, 14]);
    let page = table.find_scopes(&query, page.next.as_deref(), 100).await.unwrap();
    assert_eq!(ids(&page.rows), vec![15, 16, 17], "those after");
    assert_eq!(page.next, None, "this was all");
}

async fn changes(table: &dyn KeyTable) {
    let rewrap = |id: u8, from, to, fill| ScopeChange::Rewrap {
        id: ScopeId([id; 16]),
        from: Epoch(from),
        epoch: Epoch(to),
        wrapped: vec![fill; 5],
    };
    let before = get(table, 13).await;
    let used = ScopeChange::Use { id: ScopeId([10; 16]), add: 65_536 };
    let unknown = ScopeChange::Use { id: ScopeId([99; 16]), add: 1 };
    table.change_scopes(&[rewrap(10, 1, 5, 1), rewrap(13, 1, 5, 2), used.clone(), used, unknown]).await.unwrap();
    let changed = get(table, 10).await;
    assert_eq!((changed.epoch, changed.wrapped, changed.uses), (Epoch(5), vec![1; 5], 131_072));
    assert_eq!(get(table, 13).await, before, "it did not stand at that epoch");
    table.change_scopes(&[]).await.unwrap();
    many_at_once(table).await;
}

/// As many as an epoch's turn moves in one step, each to its own wrap.
async fn many_at_once(table: &dyn KeyTable) {
    const MANY: u16 = 300;
    let id = |n: u16| {
        let mut id = [0xAB; 16];
        id[..2].copy_from_slice(&n.to_be_bytes());
        ScopeId(id)
    };
    for n in 0..MANY {
        let scope = scope("many", Holder::Record(Ordinal(u32::from(n) + 1)), 2026);
        table.insert_scope(&ScopeRow { id: id(n), ..row(1, scope, 0, 70 + u64::from(n % 2)) }).await.unwrap();
    }
    let wrapped = |n: u16| [&n.to_be_bytes()[..], &[9; 58]].concat();
    let change = |n| ScopeChange::Rewrap { id: id(n), from: Epoch(70), epoch: Epoch(72), wrapped: wrapped(n) };
    let changes: Vec<ScopeChange> = (0..MANY).map(change).collect();
    table.change_scopes(&changes).await.unwrap();
    let moved = find(table, &ScopeQuery::Epoch(Epoch(72)), 9_999).await;
    assert_eq!(moved.len(), usize::from(MANY) / 2, "those that stood at the epoch");
    for row in &moved {
        let n = u16::from_be_bytes([row.id.0[0], row.id.0[1]]);
        assert_eq!(row.wrapped, wrapped(n));
    }
}

async fn destruction(table: &dyn KeyTable) {
    let id = ScopeId([10; 16]);
    table.put_slots(&[slot(1, 10, 1), slot(2, 10, 2), slot(3, 12, 3)]).await.unwrap();
    for _ in 0..2 {
        table.destroy_scope(id).await.unwrap();
        let left = table.get_slots(&[1u8, 2, 3].map(|n| ObjectId([n; 16]))).await.unwrap();
        assert_eq!(left, vec![None, None, Some(slot(3, 12, 3))], "its slots alone are gone");
        let row = get(table, 10).await;
        assert!(row.is_destroyed() && row.wrapped.is_empty(), "the row stays, the wrap does not");
        let put = table.put_slots(&[slot(9, 12, 1), slot(4, 10, 4)]).await.unwrap_err();
        assert!(put.is_outage(), "whoever wrapped does it anew, and learns that the scope has ended");
        let left = table.get_slots(&[4u8, 9].map(|n| ObjectId([n; 16]))).await.unwrap();
        assert_eq!(left, vec![None, None], "all or none");
    }
    let again = ScopeChange::Rewrap { id, from: Epoch(5), epoch: Epoch(6), wrapped: vec![1] };
    table.change_scopes(&[again, ScopeChange::Close { id }]).await.unwrap();
    let row_now = get(table, 10).await;
    assert!(row_now.is_destroyed() && row_now.wrapped.is_empty(), "nothing revives it");
    assert!(find(table, &ScopeQuery::Epoch(Epoch(5)), 9).await.is_empty());
    let offered = row(20, row_now.scope.clone(), 0, 5);
    assert_eq!(table.insert_scope(&offered).await.unwrap(), row_now, "its name is taken for ever");
    table.destroy_scope(ScopeId([98; 16])).await.unwrap();
    table.destroy_scope(ScopeId([16; 16])).await.unwrap();
    assert!(find(table, &ScopeQuery::LivingUnassigned(domain("ehr")), 9).await.is_empty());
}

async fn closing(table: &dyn KeyTable) {
    let id = ScopeId([15; 16]);
    table.put_slots(&[slot(5, 15, 5)]).await.unwrap();
    for _ in 0..2 {
        table.change_scopes(&[ScopeChange::Close { id }]).await.unwrap();
        assert_eq!(get(table, 15).await.state, ScopeState::Closed);
        assert!(table.put_slots(&[slot(6, 15, 6)]).await.unwrap_err().is_outage(), "it takes no further slot");
    }
    assert_eq!(table.find_slots(id, None, 9).await.unwrap(), [slot(5, 15, 5)], "and keeps those it has");
    let moved = ScopeChange::Rewrap { id, from: Epoch(2), epoch: Epoch(6), wrapped: vec![1] };
    table.change_scopes(&[moved]).await.unwrap();
    assert_eq!(ids(&find(table, &ScopeQuery::Epoch(Epoch(6)), 9).await), [15], "it lives on through epochs");
    table.put_slots(&[slot(5, 14, 5)]).await.unwrap();
    table.destroy_scope(id).await.unwrap();
    assert!(get(table, 15).await.is_destroyed());
    let left = table.get_slots(&[ObjectId([5; 16])]).await.unwrap();
    assert_eq!(left, [Some(slot(5, 14, 5))], "what moved to another scope stays");
}

async fn secrets(table: &dyn KeyTable) {
    assert_eq!(table.secret("node", None).await.unwrap(), None);
    assert_eq!(table.secret("node", Some(b"one")).await.unwrap(), Some(b"one".to_vec()));
    assert_eq!(table.secret("node", Some(b"two")).await.unwrap(), Some(b"one".to_vec()), "the first writer wins");
    assert_eq!(table.secret("node", None).await.unwrap(), Some(b"one".to_vec()));
    assert_eq!(table.secret("es256/tokens", None).await.unwrap(), None);
    assert!(!table.replace_secret("node", b"two", b"three").await.unwrap(), "something else stands");
    assert!(!table.replace_secret("none", b"", b"three").await.unwrap());
    assert!(table.replace_secret("node", b"one", b"three").await.unwrap());
    assert_eq!(table.secret("node", None).await.unwrap(), Some(b"three".to_vec()));
    assert_eq!(table.secret("none", None).await.unwrap(), None);
}

/// Everything [`RootKeys`] promises but durability. `root` is at its first epoch.
pub async fn root_keys(root: &dyn RootKeys) {
    let epochs = root.epochs().await.unwrap();
    let [first] = epochs.as_slice() else { panic!("one epoch at first") };
    let first = *first;
    assert!(first > Epoch::ROOT);
    let keys = [WrapItem { aad: b"a", bytes: &[1; 32] }, WrapItem { aad: b"b", bytes: &[2; 138] }];
    let under_first = root.wrap(first, &keys).await.unwrap();
    let under_root = root.wrap(Epoch::ROOT, &keys).await.unwrap();
    unwraps(root, first, &under_first, &keys).await;
    unwraps(root, Epoch::ROOT, &under_root, &keys).await;

    let misfits = [
        WrapItem { aad: b"b", bytes: &under_first[0] },
        WrapItem { aad: b"a", bytes: &under_root[0] },
        WrapItem { aad: b"a", bytes: &under_first[0][1..] },
        WrapItem { aad: b"a", bytes: b"" },
        WrapItem { aad: b"a", bytes: &under_first[0] },
    ];
    let results = root.unwrap(first, &misfits).await.unwrap();
    let opened: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(opened, [false, false, false, false, true], "each its own result");
    assert!(results[..4].iter().all(|result| matches!(result, Err(VaultError::Tampered))));

    assert!(root.destroy_epoch(first).await.is_err(), "the current epoch stays");
    assert!(root.destroy_epoch(Epoch::ROOT).await.is_err(), "the root stays");
    let second = root.begin_epoch(Timestamp(1_764_000_000_000)).await.unwrap();
    assert_eq!(root.begun(second).await.unwrap(), Some(Timestamp(1_764_000_000_000)));
    assert!(second > first);
    assert_eq!(root.epochs().await.unwrap(), vec![first, second]);
    unwraps(root, first, &under_first, &keys).await;
    let under_second = root.wrap(second, &keys).await.unwrap();
    root.destroy_epoch(first).await.unwrap();
    root.destroy_epoch(first).await.unwrap();
    assert_eq!(root.epochs().await.unwrap(), vec![second]);
    let item = WrapItem { aad: b"a", bytes: &under_first[0] };
    assert!(matches!(root.unwrap(first, &[item]).await, Err(VaultError::Destroyed)));
    assert!(matches!(root.wrap(first, &keys).await, Err(VaultError::Destroyed)));
    let wrong = root.unwrap(second, &[item]).await.unwrap();
    assert!(matches!(wrong[0], Err(VaultError::Tampered)), "no other epoch opens it");
    unwraps(root, second, &under_second, &keys).await;
    unwraps(root, Epoch::ROOT, &under_root, &keys).await;
    assert_eq!(root.begun(first).await.unwrap(), None);
    assert!(
        root.begin_epoch(Timestamp(1_764_000_000_001)).await.unwrap() > second,
        "epochs count up and never come again"
    );
}

async fn unwraps(root: &dyn RootKeys, epoch: Epoch, wrapped: &[Vec<u8>], expected: &[WrapItem<'_>]) {
    let items: Vec<WrapItem<'_>> =
        wrapped.iter().zip(expected).map(|(bytes, item)| WrapItem { aad: item.aad, bytes }).collect();
    for (plain, item) in root.unwrap(epoch, &items).await.unwrap().into_iter().zip(expected) {
        assert_eq!(plain.unwrap().as_slice(), item.bytes);
    }
}
