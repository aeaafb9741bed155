"""The documentation of this machine's own Python: a corpus that everybody has, and whose questions everybody knows.

Sources are parsed, not imported: importing the library would open windows (turtle) and print poems (this). What is
written in C has no source here, and is imported: such modules define things and do nothing.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_KNOWN_AS = {"posix": "os", "nt": "os", "_io": "io"}

# Not part of the library that people use.
_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "ensurepip"}
)


@dataclass(frozen=True, slots=True)
class DocString:
    """One documented thing.

    Args:
        name: in full, such as `subprocess.Popen.communicate`.
        signature: as it is called; empty for a module.
        kind: `module`, `class`, `function` or `method`.
        text: its documentation.

    """

    name: str
    signature: str
    kind: str
    text: str


def sources() -> list[Path]:
    """Return the files of the library's public modules."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if _public(path.relative_to(root)))


def library(on_module: Callable[[], object] = lambda: None) -> Iterator[DocString]:
    """Yield everything that is documented, once; `on_module` is called after each module."""
    seen: set[str] = set()
    for path in sources():
        for found in docstrings(path):
            seen.add(found.name)
            yield found
        on_module()
    for name in compiled():
        for found in compiled_docstrings(name):
            if found.name not in seen:
                seen.add(found.name)
                yield found
        on_module()


def module_name(path: Path) -> str:
    """Return the name by which a module is imported."""
    parts = list(path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(path: Path) -> Iterator[DocString]:
    """Yield the module of a file, and every public class, function and method in it that is documented."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old docstrings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # kept as examples of what does not parse
    name = module_name(path)
    if text := ast.get_docstring(tree):
        yield DocString(name, "", "module", text)
    yield from _members(tree, name, "function")


def _members(tree: ast.Module | ast.ClassDef, prefix: str, kind: str) -> Iterator[DocString]:
    seen: set[str] = set()
    for node in _statements(tree):
        if node.name in seen or not _documented(node.name, kind):
            continue
        seen.add(node.name)
        name = f"{prefix}.{node.name}"
        text = ast.get_docstring(node)
        if isinstance(node, ast.ClassDef):
            if text:
                yield DocString(name, f"class {node.name}({_bases(node)})", "class", text)
            yield from _members(node, name, "method")
        elif text:
            yield DocString(name, f"{node.name}({ast.unparse(node.args)})", kind, text)


def _statements(
    tree: ast.Module | ast.ClassDef | ast.If | ast.Try,
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield definitions, those that depend on the platform (in `if` and `try`) among them."""
    for node in tree.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node
            case ast.If() | ast.Try():
                yield from _statements(node)


def _documented(name: str, kind: str) -> bool:
    return not name.startswith("_") or (kind == "method" and name == "__init__")


def _bases(node: ast.ClassDef) -> str:
    return ", ".join(ast.unparse(base) for base in node.bases)


def _public(path: Path) -> bool:
    parts = path.with_suffix("").parts
    return not any(
        part in _LEFT_OUT or part.startswith(("config-", "test_")) or (part.startswith("_") and part != "__init__")
        for part in parts
    )


def compiled() -> list[str]:
    """Return the names of the public modules that are written in C."""
    folder = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    extensions = {path.name.partition(".")[0] for path in folder.glob("*.so")} if folder.is_dir() else set()
    names = {*sys.builtin_module_names, *extensions} & sys.stdlib_module_names
    # `_io` and `posix` are the insides of `io` and `os`, under whose names people know them.
    return [*sorted(name for name in names if not name.startswith(("_", "xx"))), "_io"]


def compiled_docstrings(name: str) -> Iterator[DocString]:
    """Yield a module that is written in C, and every public class, function and method in it that is documented."""
    try:
        module = import_module(name)
    except ImportError:  # its library is not on this machine
        return
    known_as = _KNOWN_AS.get(name, name)
    if name == known_as and module.__doc__:
        yield DocString(known_as, "", "module", inspect.cleandoc(module.__doc__))
    for attribute, value in sorted(vars(module).items()):
        if attribute.startswith("_") or not value.__doc__:
            continue
        full = f"{known_as}.{attribute}"
        if isinstance(value, type):
            yield DocString(full, f"class {attribute}", "class", inspect.cleandoc(value.__doc__))
            for method, what in sorted(vars(value).items()):
                if callable(what) and not method.startswith("_") and what.__doc__:
                    yield DocString(
                        f"{full}.{method}", _signature(method, what), "method", inspect.cleandoc(what.__doc__)
                    )
        elif inspect.isbuiltin(value):
            yield DocString(full, _signature(attribute, value), "function", inspect.cleandoc(value.__doc__))


def _signature(name: str, value: Callable[..., object]) -> str:
    try:
        return f"{name}{inspect.signature(value)}"
    except (ValueError, TypeError):
        return f"{name}(…)"
