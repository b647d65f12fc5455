"""The pages about durable jobs say the states, transitions, bounds, settings and options that the code has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import pytest

from zcluster.brokers import audit
from zcluster.brokers.queue_functions import MAX_IDS, PAGE_BYTES
from zcluster.brokers.queueordering import MAX_ORDERED, SLICE_JOBS
from zcluster.brokers.queuewatch import MAX_WATCHERS, MAX_WATCHERS_PER_KEY
from zcluster.cli.main import cli
from zcluster.clients import AsyncClient, AsyncJob
from zcluster.clients.queue import AsyncQueue
from zcluster.config import SETTINGS
from zcluster.config.units import MIB
from zcluster.core.queue import admission, transitions, verdict
from zcluster.core.queue.following import MAX_FOLLOWED
from zcluster.core.queue.job import FINAL, MAX_STEPS, Job, State
from zcluster.core.queue.lanes import WINDOW, WINDOW_BYTES
from zcluster.core.queue.transitions import ALLOWED, Backoff, Loss
from zcluster.errors import ERRORS
from zcluster.wire.frames import MAX_MEMBERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8").partition("\n## Jobs\n")[2].partition("\n## ")[0]
PAGE = (DOCS / "how-to" / "durable-jobs.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
DECISION = (DOCS / "decisions" / "0016-durable-jobs.md").read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first line begins with ``heading``."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:^\|.*\n)+)", text, re.M)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_table_of_states_is_that_of_the_code() -> None:
    said = {}
    for word, value, _, after in rows(PROTOCOL, "state"):
        assert State(int(value)).word == word.strip("`")
        said[State(int(value))] = set(re.findall(r"`(\w+)`", after))
    found = {state: {after.word for after in afters} for state, afters in ALLOWED.items()}
    assert said == found
    assert FINAL == 3


@pytest.mark.parametrize("code", ["function_failed", "rejected", *verdict._LOSSES])
def test_the_table_of_ends_is_that_of_the_code(code: str) -> None:
    (row,) = [row for row in rows(PROTOCOL, "the attempt ends with") if f"`{code}`" in row[0]]
    loss = verdict._LOSSES.get(code)
    if loss is None:
        assert "`failed`" in row[1]
        assert row[2] == ""
        return
    assert "is queued again" in row[1]
    assert row[2] == ("no" if loss is Loss.NOTHING else "yes")
    assert ("a death" in row[1]) is (loss is Loss.DEATH)


def test_the_bounds_of_the_protocol_are_those_of_the_code() -> None:
    text = flat(PROTOCOL)
    for said in (
        f"a message at most {MAX_MEMBERS:,} submissions",
        f"lost with {transitions.MAX_DEATHS} nodes, and one with {transitions.MAX_ATTEMPTS:,} attempts in all",
        f"of a job with more than {MAX_STEPS})",
        f"A session may follow {MAX_FOLLOWED:,} jobs",
        f"a time of more than {admission.MAX_SPAN_S / 86_400:.0f} days",
        f"of more than {admission.MAX_PARTS:,} nodes",
        f"above {admission.MAX_SORTED_BYTES:,} bytes: those MUST be written alike",
        f"values larger than {PAGE_BYTES >> 20} MiB together",
        f"take {MAX_IDS:,} ids, which may be {MAX_ORDERED:,} jobs together",
        f"at most {SLICE_JOBS:,} orders under way",
        f"has {MAX_WATCHERS} places, {MAX_WATCHERS_PER_KEY} of them for one key",
    ):
        assert said in text, said


def test_every_code_of_a_refusal_exists() -> None:
    codes = [code for row in rows(PROTOCOL, "code") for code in re.findall(r"`(\w+)`", row[0])]
    assert len(codes) > 8
    assert [code for code in codes if code not in ERRORS] == []


def test_every_error_of_the_how_to_exists() -> None:
    codes = [code for row in rows(PAGE, "error") for code in re.findall(r"`(\w+)`", row[0])]
    assert len(codes) > 12
    assert [code for code in codes if code not in ERRORS and code not in ("result", "submit")] == []


def test_the_defaults_of_the_how_to_are_those_of_the_code() -> None:
    text = flat(PAGE)
    base_s = SETTINGS["queue.backoff_base_s"].default
    assert base_s == Backoff().base_s
    assert f"`queue.backoff_base_s` ({base_s:g} s)" in text
    assert SETTINGS["queue.result_bytes"].default == 16 * MIB
    assert "`queue.result_bytes` (16 MiB)" in text
    assert SETTINGS["queue.job_expires_s"].default == 7 * 86_400
    assert SETTINGS["queue.retention_s"].default == 86_400
    assert "expires after `queue.job_expires_s`, 7 days" in text
    assert SETTINGS["queue.max_retention_s"].default == 31 * 86_400
    assert "`queue.max_retention_s` (31 days)" in text
    assert f"One call deals with at most {MAX_ORDERED:,} jobs" in text
    assert f"its {MAX_WATCHERS_PER_KEY} places, or all {MAX_WATCHERS} are taken" in text
    assert "lost with three nodes" in text
    assert transitions.MAX_DEATHS == 3


def test_every_option_of_submit_is_in_the_table_and_no_other() -> None:
    group = cli.get_command(click.Context(cli), "dapi")
    assert isinstance(group, click.Group)
    command = group.get_command(click.Context(group), "submit")
    assert command is not None
    everywhere = "--help --debug --home --output --key-file --master --no-color --log-level --log-format --context"
    options = {name for param in command.params if isinstance(param, click.Option) for name in param.opts if name[:2] == "--"}
    said = set(re.findall(r"`(--[a-z-]+)", " ".join(row[0] for row in rows(PAGE, "command line"))))
    assert said <= options
    assert options - said - set(everywhere.split()) == set()


def test_the_bounds_of_the_decision_are_those_of_the_code() -> None:
    text = flat(DECISION)
    assert f"at most {WINDOW:,} jobs or {WINDOW_BYTES >> 20} MiB" in text
    assert f"a bound of {transitions.MAX_ATTEMPTS:,} attempts" in text


@pytest.mark.parametrize(
    ("title", "methods"), [("## Durable jobs: `submit`, `job`", AsyncJob), ("## The queue: `queue`", AsyncQueue)]
)
def test_the_python_reference_has_every_method_and_no_other(title: str, methods: type) -> None:
    table = REFERENCE.partition(title + "\n")[2].partition("\n## ")[0].partition("| method |")[2]
    cells = "\n".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    told = set(re.findall(r"`(?:await )?(\w+)\([^`]*\)`", cells))
    assert told == {name for name in dir(methods) if name[0] != "_"} - {"id", "known"}


def test_the_python_reference_has_every_argument_of_submit() -> None:
    (shown,) = re.findall(r"^await submit\((.*?)\)$", REFERENCE, re.M | re.S)
    given = [name.partition("=")[0].strip() for name in shown.split(",")]
    assert [name for name in given if name != "*"] == list(inspect.signature(AsyncClient.submit).parameters)[1:]


@pytest.mark.parametrize("text", [PROTOCOL, PAGE, DECISION], ids=["protocol", "how-to", "decision"])
def test_keys_and_sequences_are_those_of_one_asker_and_the_pages_say_so(text: str) -> None:
    mine, other = (Job(1, "f", "any", "any:f", 5, key, "c", b"", 0.0, idempotency_key="k", sequence="s") for key in "ab")
    assert mine.identity != other.identity
    assert mine.line != other.line
    said = flat(text)
    assert re.search(r"of one client key|one of the asker's|those of one CURVE key", said)
    assert not re.search("cluster's: (a key|the same one)|of another client's key|or of another client\\.", said)


def test_the_audit_page_says_how_many_records_wait() -> None:
    page = flat((DOCS / "how-to" / "audit.md").read_text(encoding="utf-8"))
    assert f"Up to {audit.MAX_WAITING:,} records ({audit.MAX_WAITING_BYTES >> 20} MiB) wait in memory" in page
