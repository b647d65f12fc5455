"""``zcluster dapi``: call functions on nodes, list them, describe them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zcluster.cli.answers import AnswerPrinter, put_value
from zcluster.cli.arguments import arguments, read_arguments
from zcluster.cli.connect import connection, deadline_s, open_client, run_async, settings
from zcluster.cli.groups import Group
from zcluster.cli.options import State, common_options, connection_options, output_option, timeout_option
from zcluster.cli.output import Column, emit_list, emit_object, json_text, pairs, put
from zcluster.cli.submit import submit
from zcluster.core.targets import is_single
from zcluster.errors import EXIT_OK, NoSuchFunction, NotAllowed, UsageError, one_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from zcluster.clients import AsyncClient

FUNCTION_COLUMNS = (
    Column("name", "NAME"),
    Column("role", "ROLE"),
    Column("timeout_s", "TIMEOUT", wide=True, right=True),
    Column("idempotent", "IDEMPOTENT", wide=True),
    Column("pool", "POOL", wide=True),
    Column("stream", "STREAM"),
    Column("nodes", "NODES", text=lambda nodes: ",".join(nodes or ()) or "-"),
    Column("summary", "SUMMARY"),
)


def complete_function(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of functions for the shell."""
    from zcluster.cli.completing import function_names

    return function_names(ctx, incomplete)


def complete_target(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of nodes for the shell."""
    from zcluster.cli.completing import target_names

    return target_names(ctx, incomplete)


@click.group(cls=Group)
def dapi() -> None:
    """Call functions on nodes; list and describe them."""


dapi.add_command(submit)


@dapi.command()
@click.argument("function", shell_complete=complete_function)
@click.argument("args", nargs=-1, metavar="[ARGS]...")
@click.option(
    "--target", default="any", show_default=True, shell_complete=complete_target,
    help="any, master, NAME, A,B, a glob, all, agent:ID or group:NAME.",
)
@click.option("--priority", type=click.IntRange(0, 9), default=5, show_default=True, help="9 is served first.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the arguments from stdin, as one JSON object.")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def call(
    state: State,
    function: str,
    args: tuple[str, ...],
    target: str,
    priority: int,
    from_stdin: bool,
    timeout: float | None,
    key: Path | None,
    master: tuple[str, ...],
) -> int:
    """Call FUNCTION on the target nodes and print what they answer.

    ARGS is one JSON object, or name=value for each argument. A value is JSON if it parses as JSON, else text:
    a=1 is a number, a='"1"' is a string. NaN, Infinity and 1e999 are errors: JSON has no such numbers.

    The answer of one node (any, master, NAME, agent:ID): without -o its bare value as JSON; yaml: the bare value as YAML;
    ndjson: one line with node (the one that answered), ok, value, error and elapsed_s; json: a list of that one item;
    table, wide: a header and a row; name: the node.

    The answers of several nodes (A,B, a glob, all): without -o, table, wide: a row each as they come; ndjson: a line each
    as they come; json, yaml: one list at the end; name: the nodes that answered or failed. A generator's items are one list
    in value. Exit code 3 when only some succeeded.

    The items of a generator function on one node: without -o, table, wide, ndjson, name: each as JSON on a line, as it
    comes; json, yaml: one list of the bare items at the end.
    """
    if from_stdin and args:
        raise UsageError("--stdin and ARGS exclude each other", hint="give the arguments in one place")
    values = arguments(args) if not from_stdin else _from_stdin(state)
    client = open_client(state, connection(key, master, timeout))
    until_s = deadline_s(state, timeout)
    return run_async(_call(client, function, values, target=target, timeout_s=until_s, priority=priority, output=state.output))


def _from_stdin(state: State) -> dict[str, Any]:
    return read_arguments(sys.stdin.buffer, settings(state).settings.limits.body_bytes)


async def _call(
    client: AsyncClient,
    function: str,
    values: dict[str, Any],
    *,
    target: str,
    timeout_s: float,
    priority: int,
    output: str | None,
) -> int:
    async with client as c:
        if not is_single(target):
            printer = AnswerPrinter(output)
            async for result in c.fan_out(function, values, target=target, timeout=timeout_s, priority=priority):
                printer.add(result)
            return printer.close()
        if await _streams(c, function):
            return await _stream(c, function, values, target=target, timeout_s=timeout_s, priority=priority, output=output)
        result = await c.call_result(function, values, target=target, timeout=timeout_s, priority=priority)
        if output in (None, "yaml"):
            put_value(result.value, output)
            return EXIT_OK
        printer = AnswerPrinter(output)
        printer.add(result)
        return printer.close()


async def _streams(c: AsyncClient, function: str) -> bool:
    """Whether ``function`` is a generator: only the nodes that have it know. Not for a key that may not ask: it is called."""
    try:
        return any(row["name"] == function and row.get("stream") for row in await c.functions())
    except NotAllowed:
        return False


async def _stream(
    c: AsyncClient,
    function: str,
    values: dict[str, Any],
    *,
    target: str,
    timeout_s: float,
    priority: int,
    output: str | None,
) -> int:
    collected: list[Any] = []
    async for item in c.stream(function, values, target=target, timeout=timeout_s, priority=priority):
        if output in ("json", "yaml"):
            collected.append(item)
        else:
            put(json_text(item))
    if output in ("json", "yaml"):
        emit_list(collected, (), output)
    return EXIT_OK


@dapi.command("ls")
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def list_functions(state: State, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """List the functions of the cluster and the nodes that have them."""
    rows = run_async(_functions(open_client(state, connection(key, master, timeout))))
    items = [{**row, "summary": str(row.get("doc") or "").partition("\n")[0]} for row in rows]
    emit_list(items, FUNCTION_COLUMNS, state.output)


@dapi.command()
@click.argument("function", shell_complete=complete_function)
@timeout_option
@connection_options
@output_option
@common_options
@click.pass_obj
def describe(state: State, function: str, timeout: float | None, key: Path | None, master: tuple[str, ...]) -> None:
    """Say what FUNCTION does, which arguments it takes and where it runs."""
    rows = run_async(_functions(open_client(state, connection(key, master, timeout))))
    row = next((row for row in rows if row["name"] == function), None)
    if row is None:
        import difflib

        near = difflib.get_close_matches(function, [str(row["name"]) for row in rows], n=1)
        raise NoSuchFunction(
            f"no node has a function {function!r}", hint=f"did you mean {near[0]}?" if near else "see: zcluster dapi ls"
        )
    emit_object(row, state.output, lines=_description(row))


async def _functions(client: AsyncClient) -> list[dict[str, Any]]:
    async with client as c:
        return sorted(await c.functions(), key=lambda row: str(row["name"]))


def _description(row: dict[str, Any]) -> list[str]:
    facts = [(name, row.get(name)) for name in ("name", "role", "timeout_s", "idempotent", "stream", "pool")]
    facts.append(("nodes", ",".join(row.get("nodes") or ())))
    facts.append(("returns", _type_name(row.get("returns"))))
    schema = row.get("parameters") or {}
    needed = schema.get("required") or ()
    out = pairs(facts)
    if row.get("doc"):
        out += ["", *(one_line(line) for line in str(row["doc"]).splitlines())]
    out += ["", "arguments:" if schema.get("properties") else "no arguments"]
    for name, about in (schema.get("properties") or {}).items():
        default = "" if name in needed else f" = {json_text(about.get('default'))}"
        out.append(f"  {name}: {_type_name(about)}{default}")
    return out


def _type_name(schema: Any) -> str:
    """A JSON schema in a few characters: its ``type``, the alternatives of ``anyOf``, ``secret``, or the schema itself."""
    if not isinstance(schema, dict) or not schema:
        return "any"
    if "anyOf" in schema:
        return " | ".join(_type_name(one) for one in schema["anyOf"])
    if schema.get("writeOnly") is True:
        return "secret"
    if "type" in schema:
        items = f" of {_type_name(schema['items'])}" if "items" in schema else ""
        return f"{schema['type']}{items}"
    return json_text(schema)
