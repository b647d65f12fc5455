"""A request's body becomes the arguments of a function.

Rules kept here:
- a body is one JSON object of keyword arguments; an empty body and ``null`` mean no arguments;
- types are checked while decoding, strictly: text is never taken for a number, nor a boolean for an integer;
- an unknown name, a missing one, a wrong type and a name given twice are each InvalidArguments that says which;
- no message holds the value of a secret argument;
- what would take too long to decode is refused before, and large arguments are decoded in steps, between which others may run;
- argument names are ASCII, so that the same name has one spelling in JSON: it cannot be given twice in disguise.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from zcluster.dapi.context import Context
from zcluster.dapi.jobs import Body
from zcluster.dapi.longtext import LONG_BYTES, QUOTE, decode_text
from zcluster.dapi.secret import Secret, from_json, holds_secret, schema_of_type
from zcluster.dapi.steps import Steps, at_once
from zcluster.dapi.weight import LARGE_BYTES, LIGHT_BYTES, MAX_QUOTES, weigh, weigh_short
from zcluster.errors import ConfigError, InvalidArguments

_astuple: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple
_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLACE = re.compile(r"^(?P<what>.*) - at (?P<key>`key` in )?`\$(?P<path>.*)`$", re.DOTALL)
_ARGUMENT = re.compile(r"^\.(?P<name>\w+)(?P<rest>.*)$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`$", re.DOTALL)
_PLAIN_DEFAULTS = (type(None), bool, int, float, str, bytes)
_MAX_SAID_CHARS = 400
"""Of the decoder's own words: they hold a name that may be as long as the body."""
_FEW_TOKENS = 2
"""For so many names it takes less to count each than to read the object again."""
_COLON = ord(":")
_BACKSLASH = ord("\\")
_REFUSED_KINDS = {
    inspect.Parameter.VAR_POSITIONAL: "is *args",
    inspect.Parameter.VAR_KEYWORD: "is **kwargs",
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only",
}


def check_signature(name: str, call: Callable[..., Any]) -> inspect.Signature:
    """The signature of function ``name``; raises ConfigError when requests cannot fill it by keyword."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"function {name}: its signature cannot be read: {error}", hint="wrap it in a def") from error
    for parameter in signature.parameters.values():
        if parameter.kind in _REFUSED_KINDS:
            raise ConfigError(
                f"function {name}: parameter '{parameter.name}' {_REFUSED_KINDS[parameter.kind]}",
                hint="arguments travel by name: declare each one, without * and /",
            )
        if not parameter.name.isascii():
            raise ConfigError(f"function {name}: parameter '{parameter.name}' is not ASCII", hint="rename it")
    return signature


class Arguments:
    """Decodes the arguments of one function.

    Attributes:
        names: the arguments in the order of the signature, without the context.
        context_name: the parameter that takes the Context, or None.
        by_position: whether the decoded tuple can be passed as it is (``call(*values)``).
        returns: the annotation of the result, or Any.
        has_secrets: whether there is a Secret among them.
        decode: ``decode(body)`` gives the values in the order of ``names``; raises InvalidArguments. See :meth:`decode_large`.
    """

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self._name = name
        signature = check_signature(name, call)
        hints = _hints(name, call)
        self.returns: Any = hints.get("return", Any)
        self.context_name: str | None = None
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if hints.get(parameter.name) is not Context:
                parameters.append(parameter)
            elif self.context_name is None:
                self.context_name = parameter.name
            else:
                raise ConfigError(f"function {name}: two parameters take the Context", hint="declare it once")
        self.names = tuple(parameter.name for parameter in parameters)
        self.by_position = self.context_name is None and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self._texts = {p.name for p in parameters if hints.get(p.name, Any) in (Any, str)}
        """What takes any text as it is."""
        self._tokens = [f'"{name}"'.encode() for name in self.names]
        self._struct = self._make_struct([(p.name, hints.get(p.name, Any)) for p in parameters])
        try:
            self._schema = self._make_schema()
            self._decoder = msgspec.json.Decoder(self._struct, dec_hook=from_json)
            self.has_secrets = holds_secret(self._struct)
        except (TypeError, NotImplementedError) as error:
            text = str(error).splitlines()[-1]
            raise ConfigError(
                f"function {name}: its arguments cannot come from JSON: {text}",
                hint="annotate with JSON-able types, dataclasses or msgspec.Struct, or leave the annotation out",
            ) from error
        self.decode = self._make_decode()

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments object."""
        return dict(self._schema)

    def secrets(self, body: Body) -> list[str]:
        """The text of each Secret that a call with ``body`` has, also when other arguments are wrong."""
        if not self.has_secrets:
            return []
        found: list[Secret] = []

        def keep(kind: type, value: Any) -> Secret:
            found.append(from_json(kind, value))
            return found[-1]

        # A decoder of its own: this is for calls that failed, which need not be fast. What was refused for its weight was not
        # decoded, and no error tells anything of it.
        if not _too_much(body):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                msgspec.json.decode(body, type=self._struct, dec_hook=keep)
        found += [default for default in self._defaults.values() if isinstance(default, Secret)]
        return [secret.reveal() for secret in found]

    def _make_struct(self, parameters: list[tuple[str, Any]]) -> type[msgspec.Struct]:
        # Fields get names of our own (f0, f1...): a parameter may have any name without touching the struct's attributes.
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        for number, (name, hint) in enumerate(parameters):
            if name not in self._defaults:
                fields.append((f"f{number}", hint))
                continue
            default = self._defaults[name]
            if isinstance(default, _PLAIN_DEFAULTS):
                fields.append((f"f{number}", hint, msgspec.field(default=default)))
            else:  # the same object for each call, as in Python
                fields.append((f"f{number}", hint, msgspec.field(default_factory=partial(_same, default))))
        renamed = {f"f{number}": name for number, (name, _) in enumerate(parameters)}
        return msgspec.defstruct(self._name, fields, rename=renamed, forbid_unknown_fields=True, kw_only=True)

    def _make_schema(self) -> dict[str, Any]:
        (reference,), components = msgspec.json.schema_components(
            [self._struct], ref_template="#/$defs/{name}", schema_hook=schema_of_type
        )
        own = components.pop(reference["$ref"].rpartition("/")[2])
        own["title"] = self._name
        return {**own, "$defs": components} if components else own

    def decode_large(self, body: Body) -> Steps[tuple[Any, ...]]:
        """What ``decode`` does, in steps; for a body that is longer than LARGE_BYTES."""
        said = yield from weigh(body)
        if said:
            raise self._refusal_of_weight(said)
        yield
        raws = _raws(body) if len(body) > LONG_BYTES else {}
        for name in raws:
            if len(name) > _MAX_SAID_CHARS and name not in self.names:  # the decoder would repeat it
                raise self._refusal(self._unknown(_shortened(name)))
        if raws:
            yield
        long = [name for name, raw in raws.items() if name in self._texts and _is_long_text(raw)]
        if long:
            values = yield from self._read_in_pieces(body, raws, long)
        else:
            values = self._read(body)
        yield
        yield from self._refuse_duplicates_of_large(body, raws)
        return values

    def _make_decode(self) -> Callable[[Body], tuple[Any, ...]]:
        # A closure, not a method: this runs for every request.
        decode = self._decoder.decode
        required = len(self.names) - len(self._defaults)
        explain = self._explain
        refuse_duplicates = self._refuse_duplicates

        def decode_body(body: Body) -> tuple[Any, ...]:
            if len(body) > LIGHT_BYTES:
                if len(body) > LARGE_BYTES:
                    return at_once(self.decode_large(body))
                if said := weigh_short(body):
                    raise self._refusal_of_weight(said)
            try:
                values = _astuple(decode(body))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                values = explain(body, error)
            # As many colons as required arguments, which are all there: no room for a name given twice.
            if body.count(_COLON) != required:
                refuse_duplicates(body)
            return values

        return decode_body

    def _read(self, body: Body) -> tuple[Any, ...]:
        try:
            return _astuple(self._decoder.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._refusal(self._what_is_wrong(error)) from error

    def _read_in_pieces(self, body: Body, raws: dict[str, msgspec.Raw], long: list[str]) -> Steps[tuple[Any, ...]]:
        """What :meth:`_read` does, with the long texts among the arguments decoded by themselves."""
        members = [msgspec.json.encode(name) + b":" + (b'""' if name in long else raw) for name, raw in raws.items()]
        values = list(self._read(b"{" + b",".join(members) + b"}"))
        try:
            for name in long:
                values[self.names.index(name)] = yield from decode_text(memoryview(raws[name]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._read(body)  # it says what is wrong
        return tuple(values)

    def _refusal_of_weight(self, said: str) -> InvalidArguments:
        """Decoding them would keep the loop from everybody else."""
        hint = "spread them over several calls, or send them as one text (base64 for what is no text)"
        crowded = f"; behind the first {MAX_QUOTES:,} quotes what is in texts counts as well"
        return InvalidArguments(f"{self._name}: the arguments hold {said}", hint=hint + crowded)

    def _explain(self, body: Body, error: Exception) -> tuple[Any, ...]:
        """The values of a body that means "no arguments"; for any other, the error that says what is wrong."""
        wrong: Exception = error
        if body.strip() in (b"", b"null"):
            try:
                return _astuple(self._decoder.decode(b"{}"))
            except msgspec.ValidationError as missing:
                wrong = missing
        raise self._refusal(self._what_is_wrong(wrong)) from wrong

    def _refusal(self, wrong: str) -> InvalidArguments:
        return InvalidArguments(f"{self._name}: {wrong}", hint=f"see: zcluster dapi describe {self._name}")

    def _unknown(self, name: str) -> str:
        return f"unknown argument '{name}' (it takes {', '.join(self.names) or 'none'})"

    def _what_is_wrong(self, error: Exception) -> str:
        if isinstance(error, UnicodeDecodeError):
            return "the arguments are not valid JSON: they are not UTF-8"  # its own text shows a byte
        if isinstance(error, RecursionError):
            return "the arguments are nested too deep"
        if not isinstance(error, msgspec.ValidationError):
            return f"the arguments are not valid JSON: {_shortened(str(error))}"
        text = _shortened(str(error))
        place = _PLACE.match(text)
        if place is None and (field := _FIELD.match(text)):
            if field["what"] == "missing required":
                return f"missing argument '{field['name']}'"
            return self._unknown(field["name"])
        argument = _ARGUMENT.match(place["path"]) if place else None
        if place is None or argument is None:
            return f"the arguments must be one JSON object: {_plain(text)}"
        rest = argument["rest"]
        where = f" at {rest}" if rest else ""
        key = " key" if place["key"] else ""
        return f"argument '{argument['name']}'{key}{where}: {_plain(place['what'])}"

    def _refuse_duplicates(self, body: Body) -> None:
        """Raise InvalidArguments when a name is given twice. ``body`` has been decoded, so it is valid."""
        suspicious = body.find(_BACKSLASH) >= 0
        for token in self._tokens:
            if body.count(token) > 1:
                suspicious = True
        if not suspicious:
            return
        if not body.lstrip().startswith(b"{"):
            return
        at_once(self._look_for_duplicates(body, _RAW_OBJECT.decode(body)))

    def _refuse_duplicates_of_large(self, body: Body, raws: dict[str, msgspec.Raw]) -> Steps[None]:
        """The same, where lengths can tell it without looking into long texts. ``raws`` may be empty."""
        escapes = body.find(_BACKSLASH) >= 0
        if not raws:
            if not escapes and len(self._tokens) <= _FEW_TOKENS and all(body.count(token) < 2 for token in self._tokens):
                return
            yield
            raws = _RAW_OBJECT.decode(body)
        given = [token for name, token in zip(self.names, self._tokens, strict=True) if name in raws]
        outside_bytes = len(body) - sum([len(raw) for raw in raws.values()])
        # {"a":1,"b":2}: what there must be besides the values, at least.
        least_bytes = 2 + sum([len(token) + 1 for token in given]) + max(0, len(given) - 1)
        # One more name takes its quotes, a colon, a value and a comma; \u0061 instead of a letter takes five bytes more.
        one_more = len("\\u0061") - 1 if escapes else min(map(len, self._tokens), default=0) + 3
        if outside_bytes - least_bytes >= one_more:
            yield
            yield from self._look_for_duplicates(body, raws)

    def _look_for_duplicates(self, body: Body, raws: dict[str, msgspec.Raw]) -> Steps[None]:
        # What is not inside a value is a name: so count what the values hold and see what is left.
        values = [bytes(raw) for raw in raws.values()]
        for name, token in zip(self.names, self._tokens, strict=True):
            yield
            if body.count(token) - sum([value.count(token) for value in values]) > 1:
                raise InvalidArguments(f"{self._name}: argument '{name}' is given twice", hint="give it once")
        yield
        if body.count(b"\\") != sum([value.count(b"\\") for value in values]):
            raise InvalidArguments(
                f"{self._name}: an argument is given twice, or its name is written with escapes",
                hint="write each argument's name once, in plain letters",
            )


def _raws(body: Body) -> dict[str, msgspec.Raw]:
    """The arguments as they are; empty when that cannot be told."""
    try:
        return _RAW_OBJECT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _is_long_text(raw: msgspec.Raw) -> bool:
    return len(raw) > LONG_BYTES and memoryview(raw)[0] == QUOTE


def _too_much(body: Body) -> str:
    if len(body) > LARGE_BYTES:
        return at_once(weigh(body))
    return weigh_short(body) if len(body) > LIGHT_BYTES else ""


def _shortened(text: str) -> str:
    half = _MAX_SAID_CHARS // 2
    return text if len(text) <= _MAX_SAID_CHARS else f"{text[:half]}...{text[-half:]}"


def _same(value: Any) -> Any:
    return value


def _plain(text: str) -> str:
    """msgspec's sentence in our style: no capital, no back quotes."""
    return (text[:1].lower() + text[1:]).replace("`", "")


def _hints(name: str, call: Callable[..., Any]) -> dict[str, Any]:
    target = inspect.unwrap(call)
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise ConfigError(
            f"function {name}: its annotations cannot be read: {type(error).__name__}: {error}",
            hint="import the names that the annotations use at run time, not under TYPE_CHECKING",
        ) from error


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a result's annotation; empty (anything) when it has none. Results are not checked."""
    try:
        return msgspec.json.schema(annotation, ref_template="#/$defs/{name}")
    except (TypeError, NotImplementedError):
        return {}
