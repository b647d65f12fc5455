"""An argument that nobody reads by accident: not in text, not in JSON, not in errors, not in the log."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.dapi import Function, Secret, child, function
from zcluster.dapi.secret import MAX_SECRETS, MIN_CHARS, WITHHELD, hide
from zcluster.dapi.weight import LARGE_BYTES, LIGHT_BYTES
from zcluster.errors import MAX_TEXT_CHARS, ConfigError, FunctionFailed, InvalidArguments, Reject, Retry, one_line

MakeRig = Callable[..., Any]
VALUE = "hunter2-\n\"é'\\"
"""With what is written otherwise in a repr, in JSON and on one line."""


@dataclasses.dataclass
class Account:
    name: str
    pin: Secret


class Row(msgspec.Struct):
    token: Secret | None = None


@function("login")
def login(
    user: str, password: Secret, old: Secret | None = None, several: list[Secret] | None = None,
    by_name: dict[str, Secret] | None = None, account: Account | None = None, row: Row | None = None,
    about: Annotated[Secret | None, msgspec.Meta(description="a token")] = None,
) -> list[str]:  # fmt: skip
    """Every text that it was given."""
    found = [password, old, about, *(several or ()), *(by_name or {}).values(), account and account.pin, row and row.token]
    assert all(type(each) is Secret for each in found if each is not None)
    return [each.reveal() for each in found if each is not None]


# -- the object ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>20} {secret:>20}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - loggers do so
        lambda secret: pprint.pformat({"a": [secret]}),
        lambda secret: str(Account("ann", secret)),
        lambda secret: str(dataclasses.asdict(Account("ann", secret))),
        lambda secret: repr(Row(secret)),
        lambda secret: repr(copy.copy(secret)) + repr(copy.deepcopy([secret])),
        lambda secret: str(getattr(secret, "__dict__", "")),
    ],
)
def test_no_text_shows_it(show: Callable[[Secret], str]) -> None:
    shown = show(Secret("hunter2"))
    assert "hunter" not in shown


def test_no_encoder_takes_it() -> None:
    secret = Secret("hunter2")
    for encode in (json.dumps, orjson.dumps, msgspec.json.encode, pickle.dumps, copy.copy(pickle.dumps)):
        with pytest.raises(TypeError) as caught:
            encode({"a": secret})
        assert "hunter" not in str(caught.value)


def test_a_traceback_with_locals_does_not_show_it() -> None:
    def fails(password: Secret) -> None:
        raise ValueError("no")

    try:
        fails(Secret("hunter2"))
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "password = Secret('***')" in shown
    assert "hunter2'" not in shown.replace('Secret("hunter2")', "")


def test_it_is_revealed_on_request_and_compared_with_its_like() -> None:
    secret = Secret("hünter2")
    assert secret.reveal() == "hünter2"
    assert secret == Secret("hünter2")
    assert secret != Secret("hunter2")
    assert secret != "hünter2"
    assert Secret("\ud800") == Secret("\ud800")
    assert len({secret, Secret("hünter2")}) == 1
    with pytest.raises(TypeError, match="made of text, not of int"):
        Secret(5)  # type: ignore[arg-type]


# -- as an argument -----------------------------------------------------------------------------------------------------


def test_it_comes_as_text_wherever_it_is_declared() -> None:
    arguments = {
        "user": "ann", "password": "p1", "old": "p2", "about": "p3", "several": ["p4", "p5"], "by_name": {"a": "p6"},
        "account": {"name": "ann", "pin": "p7"}, "row": {"token": "p8"},
    }  # fmt: skip
    assert orjson.loads(Function(login).run(orjson.dumps(arguments))) == [f"p{number}" for number in range(1, 9)]
    assert orjson.loads(Function(login).run(b'{"user":"ann","password":"p1","old":null}')) == ["p1"]


def test_its_schema_says_so() -> None:
    secret = {"type": "string", "writeOnly": True, "format": "password"}
    properties = Function(login).schema()["properties"]
    assert properties["password"] == secret
    assert properties["old"] == {"anyOf": [secret, {"type": "null"}], "default": None}
    assert properties["several"]["anyOf"][0]["items"] == secret
    assert Function(login).schema()["$defs"]["Account"]["properties"]["pin"] == secret


@pytest.mark.parametrize(
    "body",
    [
        {"user": "ann", "password": 12345678},
        {"user": "ann", "password": ["12345678"]},
        {"user": "ann", "password": {"12345678": 1}},
        {"user": "ann", "password": "p", "several": "12345678"},
        {"user": "ann", "password": "p", "several": ["x", 12345678]},
        {"user": 5, "password": "12345678"},
        {"password": "12345678"},
        {"user": "ann", "password": "12345678", "more": "12345678"},
        {"user": "ann", "passwort": "12345678"},
    ],
)
def test_wrong_arguments_are_not_repeated(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Function(login).run(orjson.dumps(body))
    assert "12345678" not in f"{caught.value}"


def test_a_wrong_type_is_told_like_any_other() -> None:
    with pytest.raises(InvalidArguments, match=r"argument 'several' at \[1\]: expected str, got int"):
        Function(login).run(b'{"user":"ann","password":"p","several":["x",1]}')


def test_what_is_not_utf_8_is_not_repeated() -> None:
    with pytest.raises(InvalidArguments, match="they are not UTF-8") as caught:
        Function(login).run(b'{"user":"ann","password":"\xff"}')
    assert "0xff" not in str(caught.value)


@function("keyed")
def keyed(by_secret: dict[Secret, int]) -> None:
    """A schema cannot say that."""


@function("either")
def either(secret: Secret | int) -> None:
    """msgspec cannot tell these apart."""


@pytest.mark.parametrize(("call", "words"), [(keyed, "cannot be the key"), (either, "cannot come from JSON")])
def test_what_a_schema_cannot_say_is_refused_when_loaded(call: Callable[..., Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Function(call)


# -- when the function fails --------------------------------------------------------------------------------------------


def fails(how: str, password: Secret) -> Any:
    """Fails in one of many ways, and tells the password each time."""
    text = password.reveal()
    match how:
        case "text":
            raise ValueError(f"login with {text} failed")
        case "repr":
            raise ValueError(f"login with {text!r} failed")
        case "json":
            raise ValueError(json.dumps({"password": text}))
        case "bytes":
            raise ValueError(f"{text.encode()!r}")
        case "cause":
            raise ValueError("failed") from KeyError(text)
        case "note":
            error = ValueError("failed")
            error.add_note(text)
            raise error
        case "failed":
            raise FunctionFailed(f"with {text}", hint=f"try {text}")
        case "arguments":
            raise InvalidArguments(f"{text} is too short")
        case "retry":
            raise Retry(f"{text} was refused", after_s=2, hint=text)
        case "reject":
            raise Reject(f"{text} is wrong")
        case "long":
            raise FunctionFailed("x" * (MAX_TEXT_CHARS - 8) + text)
    return password if how == "returned" else [{"deep": password}]


WAYS = ["text", "repr", "json", "bytes", "cause", "note", "failed", "arguments", "retry", "reject", "long", "returned", "deep"]


@function("fails.thread")
def fails_thread(how: str, password: Secret) -> Any:
    return fails(how, password)


@function("fails.inline", pool="inline")
def fails_inline(how: str, password: Secret) -> Any:
    return fails(how, password)


@function("fails.async")
async def fails_async(how: str, password: Secret) -> Any:
    return fails(how, password)


@function("fails.stream")
def fails_stream(how: str, password: Secret) -> Iterator[Any]:
    yield fails(how, password)


@function("fails.async_stream")
async def fails_async_stream(how: str, password: Secret) -> AsyncIterator[Any]:
    yield fails(how, password)


@function("fails.process", pool="process")
def fails_process(how: str, password: Secret) -> Any:
    return fails(how, password)


KINDS = [fails_thread, fails_inline, fails_async, fails_stream, fails_async_stream]


def assert_hidden(text: str) -> None:
    for part in ("hunter2", "hunt"):
        assert part not in text


@pytest.mark.parametrize("call", KINDS)
@pytest.mark.parametrize("how", WAYS)
def test_no_error_and_no_log_tells_it(
    how: str, call: Callable[..., Any], make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> bytes:
        rig = make_rig(call)
        job_id = rig.start(Function(call).name, {"how": how, "password": VALUE})
        await rig.until(lambda: bool(rig.ends(job_id)))
        ((ok, body),) = rig.ends(job_id)
        assert not ok
        return bytes(body)

    caplog.set_level(logging.DEBUG)
    body = asyncio.run(main())
    assert_hidden(body.decode())
    assert_hidden(caplog.text)
    assert all(record.exc_info is None for record in caplog.records if record.name == "zcluster.test")
    code = {"arguments": "invalid_arguments", "retry": "retry", "reject": "rejected"}.get(how, "function_failed")
    assert orjson.loads(body)["code"] == code
    if how in ("text", "cause", "note"):
        assert "Traceback" in caplog.text
        assert "***" in caplog.text


@pytest.mark.parametrize("how", WAYS)
def test_a_process_tells_it_neither(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(child._functions, "fails.process", Function(fails_process))
    order = child.Order("fails.process", orjson.dumps({"how": how, "password": VALUE}), "c", "client", "w1", "1.1", 5.0)
    ok, body, text = child.run(order)
    assert not ok
    assert_hidden(body.decode() + text)
    assert ("Traceback" in text) is (how not in ("arguments", "retry", "reject"))


def test_a_secret_that_is_returned_is_said_to_be_one(make_rig: MakeRig) -> None:
    for how in ("returned", "deep"):
        with pytest.raises(FunctionFailed, match=r"not JSON: .*Secret.*reveal"):
            Function(fails_thread).run(orjson.dumps({"how": how, "password": VALUE}))


@function("default")
def default(password: Secret = Secret("from-the-module")) -> None:  # noqa: B008 - immutable
    raise ValueError(password.reveal())


def test_a_secret_by_default_is_hidden_too() -> None:
    with pytest.raises(FunctionFailed, match=r"ValueError: \*\*\*"):
        Function(default).run(b"{}")


def test_functions_without_secrets_keep_their_exception_for_the_log() -> None:
    @function("plain")
    def plain(a: str) -> None:
        raise ValueError(a)

    with pytest.raises(FunctionFailed, match="ValueError: hunter2"):
        Function(plain).run(b'{"a":"hunter2"}')
    assert Function(plain).secrets(b'{"a":"hunter2"}') == []


def test_secrets_are_found_also_when_other_arguments_are_wrong() -> None:
    found = Function(login).secrets(b'{"password":"p1234","several":["q1234"],"user":5}')
    assert found == ["p1234", "q1234"]
    assert Function(login).secrets(b"not JSON") == []


# -- hiding -------------------------------------------------------------------------------------------------------------


def test_short_secrets_are_not_looked_for() -> None:
    assert hide("abc abcd", ["a" * (MIN_CHARS - 1), "abc"]) == "abc abcd"
    assert hide("abc abcd", ["abcd"]) == "abc ***"


def test_secrets_are_looked_for_up_to_a_bound() -> None:
    secrets = [f"secret-{number}" for number in range(MAX_SECRETS)]
    assert hide("text", secrets) == "text"
    assert hide("text", [*secrets, "one more"]) == WITHHELD


def test_a_secret_within_another_leaves_nothing_of_it() -> None:
    assert hide("x abcdefgh y", ["cdef", "abcdefgh"]) == "x *** y"


@pytest.mark.parametrize("kept", range(MIN_CHARS, 12))
def test_the_beginning_of_a_secret_at_a_cut_end_is_hidden(kept: int) -> None:
    secret = "abcdefghijklmnop"
    text = one_line("x" * (MAX_TEXT_CHARS - 1 - kept) + secret)
    assert text.endswith(secret[:kept] + "…")
    assert hide(text, [secret]) == "x" * (MAX_TEXT_CHARS - 1 - kept) + "***…"
    assert hide(f"{text}\nmore", ["other", secret]).endswith("x***…\nmore")


@given(st.text(min_size=MIN_CHARS, max_size=20).filter(lambda text: "*" not in text), st.text(max_size=30))
def test_hidden_text_does_not_hold_the_secret(secret: str, around: str) -> None:
    for form in (secret, repr(secret), json.dumps(secret), one_line(secret)):
        assert secret not in hide(around + form + around, [secret]) or secret in "***"


def test_arguments_that_are_too_much_are_not_decoded_for_their_secrets() -> None:
    def login(password: Secret, value: Any) -> None:
        return None

    declared = Function(function("login")(login))
    for size in (LIGHT_BYTES, LARGE_BYTES):
        body = b'{"password":"hunter-2","value":[' + b"1e308," * (size // 6) + b"1]}"
        assert declared.secrets(body) == []
        with pytest.raises(InvalidArguments, match="slow numbers") as caught:
            declared.run(body)
        assert "hunter" not in repr(caught.value.to_dict())
    assert declared.secrets(b'{"password":"hunter-2","value":[1e308]}'.ljust(2 * LARGE_BYTES)) == ["hunter-2"]
