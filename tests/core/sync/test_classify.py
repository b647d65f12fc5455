"""What differs, and the plan for it, against a naive model of both trees."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from treemodel import Tree, applied, directory, file, link, manifest, model_of, tree

from zcluster.core.sync.classify import (
    Classes,
    Plan,
    changes_between,
    classify,
    make_plan,
    plan_of_changes,
    wanted_listings,
)
from zcluster.core.sync.entry import DIRECTORY, Change, listing_digest, parent
from zcluster.core.sync.paths import fold
from zcluster.core.sync.rules import Rules

NAMES = ["a", "b", "A", "c.log", "d.tmp", "k"]
RULES = [
    Rules(),
    Rules(extra_valid=("*.log",)),
    Rules(exclude=("*.tmp", "/b/")),
    Rules(include=("/a/", "*.log"), extra_valid=("k/",)),
    Rules(exclude=("k",), extra_valid=("b/", "!b/a")),
]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree of a few names and levels, without names that differ by case only."""
    out: Tree = {}
    folded: set[str] = set()
    for parts in draw(st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), max_size=12)):
        path = "/".join(parts)
        kind = draw(st.sampled_from(["f", "f", "d", "l"]))
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        if path in out or any(one in out and out[one].kind != DIRECTORY for one in above):
            continue
        new = [one for one in (*above, path) if one not in out]
        if any(fold(one) in folded for one in new):
            continue
        folded.update(map(fold, new))
        for one in above:
            out.setdefault(one, directory(one))
        if kind == "f":
            content = draw(st.sampled_from(["", "one", "two", "three"]))
            out[path] = file(path, content, mode=draw(st.sampled_from([0o644, 0o755])), mtime_ns=draw(st.integers(0, 1)))
        else:
            mode = draw(st.sampled_from([0o755, 0o700]))
            out[path] = directory(path, mode=mode) if kind == "d" else link(path, draw(st.sampled_from(["x", "y"])))
    return out


def seen(model: Tree, rules: Rules) -> Tree:
    """What a scan by these rules finds."""
    out: Tree = {}
    for path in sorted(model):
        if (parent(path) in out or not parent(path)) and rules.covers(path, model[path].kind == DIRECTORY):
            out[path] = model[path]
    return out


def naive(theirs: Tree, mine: Tree, rules: Rules) -> tuple[set[str], set[str], set[str]]:
    """Missing, shared and extra, path by path."""
    exempt: set[str] = set()
    missing, shared, extra = set(), set(), set()
    for path in sorted({*theirs, *mine}):
        sides = [side[path] for side in (theirs, mine) if path in side]
        dirs = [one.kind == DIRECTORY for one in sides]
        if parent(path) in exempt or any(rules.is_extra_valid(path, one) or not rules.covers(path, one) for one in dirs):
            exempt.add(path)
        elif path not in mine:
            missing.add(path)
        elif path not in theirs:
            extra.add(path)
        elif theirs[path] != mine[path]:
            shared.add(path)
    return missing, shared, extra


def found(classes: Classes) -> tuple[set[str], set[str], set[str]]:
    return ({d.path for d in classes.missing}, {d.path for d in classes.shared}, {d.path for d in classes.extra})


@settings(max_examples=120, deadline=None)
@given(trees(), trees(), st.sampled_from(RULES))
def test_classes_are_as_a_naive_comparison_has_them(theirs: Tree, mine: Tree, rules: Rules) -> None:
    classes = classify(manifest(theirs), manifest(mine), rules)
    expected = naive(theirs, mine, rules)
    # Nothing is looked at in a directory whose digest is the same: there, nothing differs that the rules could exempt.
    assert found(classes) == expected
    for differences in (classes.missing, classes.shared, classes.extra, classes.extra_valid, classes.uncovered):
        met: set[str] = set()
        for path, entry, own in differences:
            assert path not in met
            assert not any(other.startswith(f"{path}/") for other in met), "a directory stands before what is in it"
            met.add(path)
            assert (own is None) == (path not in mine)
            assert (entry is None) == (path not in theirs) or differences is classes.extra_valid


@settings(max_examples=120, deadline=None)
@given(trees(), trees())
def test_a_plan_makes_the_copy_equal(theirs: Tree, mine: Tree) -> None:
    plan = make_plan(classify(manifest(theirs), manifest(mine), Rules()), Rules())
    assert applied(plan, mine) == theirs
    assert not plan.kept
    assert not plan.blocked
    assert plan.empty == (theirs == mine)
    files = {path for path, entry in theirs.items() if entry.kind != DIRECTORY}
    assert plan.more_files == len(files) - sum(1 for entry in mine.values() if entry.kind != DIRECTORY)
    assert plan.more_bytes == sum(entry.size for entry in theirs.values()) - sum(entry.size for entry in mine.values())
    changed = {path for path in files if theirs[path] != mine.get(path)}
    assert plan.files == len(changed)
    assert plan.bytes == sum(entry.size for _, entry in plan.fetch)
    assert plan.deletes == len(plan.delete_files)


@settings(max_examples=120, deadline=None)
@given(trees(), trees(), st.sampled_from(RULES[1:]))
def test_a_plan_never_touches_what_the_rules_leave_alone(theirs: Tree, whole: Tree, rules: Rules) -> None:
    mine = seen(whole, rules)
    unseen = [path for path in whole if path not in mine]
    hidden = {path for path in mine if any(one.startswith(f"{path}/") for one in unseen)}
    theirs = seen(theirs, rules.for_source())
    plan = make_plan(classify(manifest(theirs), manifest(mine), rules), rules)
    if hidden & set(plan.move_away):
        return  # only the disk can tell that such a directory is not empty
    after = applied(plan, mine, hidden)
    for path, entry in mine.items():
        if rules.is_extra_valid(path, entry.kind == DIRECTORY):
            assert after[path] == entry
            assert path in plan.kept
    blocked = [path for path, _ in plan.blocked]
    for path, entry in theirs.items():
        stopped = any(path == one or path.startswith(f"{one}/") for one in blocked)
        if not stopped and not any(path == kept or path.startswith(f"{kept}/") for kept in plan.kept):
            assert after[path] == entry
    staying = {*plan.kept, *hidden}
    for path in after:
        if path not in theirs:
            assert path in staying or any(kept.startswith(f"{path}/") for kept in staying)
    again = make_plan(classify(manifest(theirs), manifest(after), rules), rules)
    assert not again.fetch
    assert not again.copies
    assert not again.delete_files
    assert set(again.delete_dirs) <= hidden


@settings(max_examples=80, deadline=None)
@given(trees(), trees())
def test_without_deletions_nothing_goes(theirs: Tree, mine: Tree) -> None:
    rules = Rules(delete=False)
    plan = make_plan(classify(manifest(theirs), manifest(mine), rules), rules)
    assert not plan.delete_files
    assert not plan.delete_dirs
    after = applied(plan, mine)
    for path, entry in mine.items():
        assert path in after
        if path not in theirs:
            assert after[path] == entry
            assert path in plan.kept
    blocked = [path for path, _ in plan.blocked]
    for path, entry in theirs.items():
        if not any(path == one or path.startswith(f"{one}/") for one in blocked):
            assert after[path] == entry
    assert len({fold(path) for path in after}) == len(after)


@settings(max_examples=80, deadline=None)
@given(trees(), trees())
def test_listings_are_asked_for_only_where_they_differ(theirs: Tree, mine: Tree) -> None:
    source, sink = manifest(theirs), manifest(mine)
    have: dict[str, bytes] = {}
    if source[""] != sink[""]:
        while True:
            shallow, deep = wanted_listings(have, sink)
            if not shallow and not deep:
                break
            for path in shallow:
                assert path in sink
                assert path not in have
                have[path] = source[path]
            for top in deep:
                assert top not in sink
                have.update({path: each for path, each in source.items() if path == top or path.startswith(f"{top}/")})
    assert all(sink.get(path) != listing for path, listing in have.items())
    assert found(classify(have, sink, Rules())) == found(classify(source, sink, Rules()))


@settings(max_examples=120, deadline=None)
@given(trees(), trees(), st.data())
def test_changes_lead_to_the_same_from_wherever_they_may_start(before: Tree, after: Tree, data: st.DataObject) -> None:
    changes = changes_between(manifest(before), manifest(after))
    plan = plan_of_changes(data.draw(st.permutations(changes)), manifest(before), Rules())
    assert plan is not None
    assert applied(plan, before) == after
    # All of them have been carried out before.
    plan = plan_of_changes(changes, manifest(after), Rules())
    assert plan is not None
    assert plan.empty
    # Some of them have.
    done = dict(before)
    for change in changes:
        old, new = change.old, change.new
        if old is not None and new is not None and DIRECTORY not in (old.kind, new.kind) and data.draw(st.booleans()):
            done[change.path] = new
    plan = plan_of_changes(changes, manifest(done), Rules())
    assert plan is not None
    assert applied(plan, done) == after


@settings(max_examples=120, deadline=None)
@given(trees(), trees(), trees(), st.sampled_from(RULES))
def test_changes_from_elsewhere_are_carried_out_exactly_or_not_at_all(
    before: Tree, after: Tree, mine: Tree, rules: Rules
) -> None:
    mine = seen(mine, rules)
    source = rules.for_source()
    changes = changes_between(manifest(seen(before, source)), manifest(seen(after, source)))
    plan = plan_of_changes(changes, manifest(mine), rules)
    if plan is None:
        return
    result = applied(plan, mine)
    blocked = [path for path, _ in plan.blocked]
    for change in changes:
        if change.path in plan.kept or any(change.path == one or change.path.startswith(f"{one}/") for one in blocked):
            continue
        if change.new is None:
            assert change.path not in result or any(kept.startswith(f"{change.path}/") for kept in plan.kept)
        else:
            own = result.get(change.path)
            assert own is not None
            assert (own.kind, own.mode) == (change.new.kind, change.new.mode)
            assert own.kind == DIRECTORY or own == change.new
    for path, entry in mine.items():
        if rules.is_extra_valid(path, entry.kind == DIRECTORY):
            assert result[path] == entry


def planned(theirs: Tree, mine: Tree, rules: Rules | None = None) -> Plan:
    rules = rules or Rules()
    return make_plan(classify(manifest(theirs), manifest(mine), rules), rules)


def test_a_model_and_its_manifest_are_the_same() -> None:
    model = tree(("a/b/c", file("c", "content")), ("a/l", link("l", "b/c")), ("e", directory("e", mode=0o700)))
    assert model_of(manifest(model)) == model


def test_nothing_to_compare_is_nothing_to_do() -> None:
    mine = manifest(tree(("a", file("a"))))
    assert found(classify({}, mine, Rules())) == (set(), set(), set())
    assert found(classify(mine, dict(mine), Rules())) == (set(), set(), set())
    assert found(classify(mine, {}, Rules())) == ({"a"}, set(), set())


def test_a_renamed_file_is_copied_where_it_is() -> None:
    plan = planned(tree(("new/b", file("b", "long content", mode=0o600))), tree(("a", file("a", "long content"))))
    assert plan.copies == [("new/b", file("b", "long content", mode=0o600), "a")]
    assert (plan.fetch, plan.delete_files, plan.bytes, plan.files) == ([], ["a"], 0, 1)


def test_what_is_replaced_can_be_copied_from_before() -> None:
    mine = tree(("a", file("a", "first")), ("b", file("b", "second")))
    theirs = tree(("a", file("a", "second")), ("b", file("b", "first")))
    plan = planned(theirs, mine)
    assert {(path, source) for path, _, source in plan.copies} == {("a", "b"), ("b", "a")}
    assert applied(plan, mine) == theirs


def test_an_empty_file_is_not_worth_a_copy() -> None:
    plan = planned(tree(("b", file("b", ""))), tree(("a", file("a", ""))))
    assert plan.copies == []
    assert plan.fetch == [("b", file("b", ""))]


def test_mode_and_time_only_are_touched() -> None:
    mine = tree(("a", file("a", mtime_ns=1)), ("d", directory("d")), ("d/x", file("x")))
    theirs = tree(("a", file("a", mtime_ns=2, mode=0o600)), ("d", directory("d", mode=0o700)), ("d/x", file("x")))
    plan = planned(theirs, mine)
    assert [path for path, _ in plan.touch] == ["a", "d"]
    assert (plan.fetch, plan.files, plan.bytes) == ([], 1, 0)


def test_a_rename_by_case_only_is_a_copy_and_a_deletion() -> None:
    plan = planned(tree(("Docs/Read", file("Read", "text"))), tree(("docs/read", file("read", "text"))))
    assert plan.make_dirs == [("Docs", 0o755)]
    assert plan.copies == [("Docs/Read", file("Read", "text"), "docs/read")]
    assert (plan.delete_files, plan.delete_dirs, plan.blocked) == (["docs/read"], ["docs"], [])


def test_a_name_does_not_come_beside_its_twin_that_stays() -> None:
    theirs = tree(("Docs/x/y", file("y")), ("z", file("z")))
    mine = tree(("docs/x/keep.log", file("keep.log")))
    plan = planned(theirs, mine, Rules(extra_valid=("*.log",)))
    assert [path for path, _ in plan.blocked] == ["Docs"]
    assert "'docs'" in plan.blocked[0][1]
    assert plan.make_dirs == []
    assert plan.fetch == [("z", file("z"))]


def test_a_file_does_not_replace_a_directory_that_holds_what_stays() -> None:
    theirs, mine = tree(("a", file("a"))), tree(("a/b.log", file("b.log")), ("a/c", file("c")))
    plan = planned(theirs, mine, Rules(extra_valid=("*.log",)))
    assert [path for path, _ in plan.blocked] == ["a"]
    assert (plan.fetch, plan.move_away, plan.delete_files) == ([], [], ["a/c"])
    plan = planned(theirs, mine, Rules(delete=False))
    assert [path for path, _ in plan.blocked] == ["a"]
    assert plan.empty


def test_what_the_source_has_where_the_sink_has_its_own_does_not_come() -> None:
    rules = Rules(extra_valid=("own",), exclude=("secret",))
    classes = classify(
        manifest(tree(("own/x", file("x")), ("secret", file("secret")))), manifest(tree(("own", file("own")))), rules
    )
    assert found(classes) == (set(), set(), set())
    assert [d.path for d in classes.extra_valid] == ["own"]
    assert [d.path for d in classes.uncovered] == ["secret"]
    assert make_plan(classes, rules).empty


def test_a_deep_tree_needs_no_stack() -> None:
    deep: Tree = {}
    path = ""
    for _ in range(1500):
        path = f"{path}/d" if path else "d"
        deep[path] = directory(path)
    listings = manifest(deep)
    assert len(classify(listings, {}, Rules()).missing) == 1500
    assert len(planned({}, deep).delete_dirs) == 1500
    assert wanted_listings(listings, {}) == ([], [])


def test_changes_are_refused_where_they_do_not_start_here() -> None:
    a, b = file("a", "one"), file("a", "two")
    refused: list[tuple[list[Change], Tree]] = [
        ([Change("a", a, b)], {}),
        ([Change("a", a, b)], tree(("a", file("a", "three")))),
        ([Change("a", None, b)], tree(("a", a))),
        ([Change("a", a, None)], tree(("a", b))),
        ([Change("a", None, None)], {}),
        ([Change("", None, a)], {}),
        ([Change("a", None, a), Change("a", None, a)], {}),
        ([Change("d/a", None, a)], {}),
        ([Change("d/a", None, a)], tree(("d", file("d")))),
        ([Change("d", directory("d"), None), Change("d/a", None, a)], tree(("d", directory("d")))),
        ([Change("d", directory("d"), None)], tree(("d/x", file("x")))),
        ([Change("d", directory("d"), file("d"))], tree(("d/x", file("x")))),
        ([Change("A", None, file("A"))], tree(("a", a))),
        ([Change("A", None, file("A")), Change("a", None, a)], {}),
    ]
    for changes, mine in refused:
        assert plan_of_changes(changes, manifest(mine), Rules()) is None, changes


def test_a_deleted_directory_keeps_what_the_sink_has_of_its_own() -> None:
    mine = tree(("d/x", file("x")), ("d/own.log", file("own.log")))
    changes = [Change("d", directory("d"), None), Change("d/x", file("x"), None)]
    plan = plan_of_changes(changes, manifest(mine), Rules(extra_valid=("*.log",)))
    assert plan is not None
    assert (plan.delete_files, plan.delete_dirs) == (["d/x"], [])
    assert plan_of_changes(changes, manifest(mine), Rules()) is None


def test_a_directory_in_a_change_is_judged_by_its_own_mode() -> None:
    """Its digest is of what is in it, and changes with every file."""
    mine = manifest(tree(("d/x", file("x"))))
    stale = directory("d")
    assert listing_digest(mine["d"]) != stale.digest
    plan = plan_of_changes([Change("d", stale, directory("d", mode=0o700))], mine, Rules())
    assert plan is not None
    assert [(path, entry.mode) for path, entry in plan.touch] == [("d", 0o700)]
