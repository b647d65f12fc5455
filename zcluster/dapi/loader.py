"""Finds the functions that modules declare.

Rules kept here:
- a module is a dotted name (the current directory counts) or a path that ends in ``.py``; loading it twice gives the same
  functions;
- the names of the built-in functions (``echo``, ``node.*``, ``cluster.*``) cannot be taken;
- a name stands for one function: a second one is an error that names both places;
- whatever goes wrong is ConfigError, before the node joins the cluster.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from zcluster.dapi.function import Function, declaration_of
from zcluster.errors import ConfigError

ENTRY_POINT_GROUP = "zcluster.functions"


def is_reserved(name: str) -> bool:
    """Whether ``name`` belongs to a built-in function."""
    return name == "echo" or name.startswith(("node.", "cluster."))


def load_functions(modules: Sequence[str], entry_points: bool = True) -> dict[str, Function]:
    """The functions declared in ``modules`` and, if asked, in the installed entry points ``zcluster.functions``.

    Args:
        modules: dotted names or paths of ``.py`` files.
        entry_points: whether installed packages may add theirs: an entry point names a module or a function.

    Raises ConfigError: a module is not there, fails to load, or declares nothing; a name is taken twice.
    """
    found: dict[str, Function] = {}
    for module in modules:
        loaded = _load(module)
        declared = _declared(vars(loaded).values())
        if not declared:
            raise ConfigError(
                f"module {module} ({getattr(loaded, '__file__', None) or 'no file'}) declares no function",
                hint="decorate one with @zcluster.function(), or is it another module of the same name?",
            )
        _collect(found, declared)
    if entry_points:
        for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
            _collect(found, _from_entry_point(point))
    return found


def absolute_modules(modules: Sequence[str]) -> tuple[str, ...]:
    """``modules`` with their paths made absolute, for a process that may live in another directory."""
    return tuple(str(Path(module).resolve()) if _is_path(module) else module for module in modules)


def _is_path(module: str) -> bool:
    return module.endswith(".py") or os.sep in module


def _load(module: str) -> ModuleType:
    if _is_path(module):
        return _load_path(Path(module).resolve())
    _make_importable(str(Path.cwd()))
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"'{module}' is no module name", hint="give a dotted name (my.functions) or a path (my/functions.py)")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {module}", hint="install it, start in its directory, or give the path of its .py file"
            ) from error
        raise _broken(module, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(module, error) from error


def _load_path(path: Path) -> ModuleType:
    # The name says which file it is, so that two files of the same name do not take each other's place.
    name = f"zcluster_file_{hashlib.blake2s(str(path).encode(), digest_size=6).hexdigest()}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"there is no Python file {path}", hint="give the path of a .py file, or a dotted module name")
    _make_importable(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise _broken(str(path), error) from error
        raise
    return module


def _make_importable(directory: str) -> None:
    # Last, not first: a file json.py that lies about must not take the place of an installed module.
    if directory not in sys.path:
        sys.path.append(directory)


def _broken(module: str, error: BaseException) -> ConfigError:
    if isinstance(error, ConfigError):
        return ConfigError(f"module {module}: {error.message}", hint=error.hint)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return ConfigError(f"module {module} failed to load: {type(error).__name__}: {error}{where}", hint="import it with python")


def _from_entry_point(point: metadata.EntryPoint) -> list[Any]:
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:
        raise _broken(f"{point.value} (entry point {point.name})", error) from error
    declared = _declared(vars(loaded).values()) if isinstance(loaded, ModuleType) else _declared([loaded])
    if not declared:
        raise ConfigError(
            f"entry point {point.name} ({point.value}) declares no function",
            hint="let it name a module with declared functions, or uninstall its package",
        )
    return declared


def _declared(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if declaration_of(value) is not None]


def _collect(found: dict[str, Function], declared: Iterable[Any]) -> None:
    for target in declared:
        function = Function(target)
        if is_reserved(function.name):
            raise ConfigError(
                f"function {function.name} ({function.place()}) has the name of a built-in one",
                hint="echo, node.* and cluster.* are taken",
            )
        other = found.get(function.name)
        if other is not None and other.target is not target:
            raise ConfigError(
                f"two functions are called {function.name}: {other.place()} and {function.place()}", hint="rename one of them"
            )
        found[function.name] = function
