"""What the conformance tests look at: every module of the package as a syntax tree, and what it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "classifier"


@dataclass(frozen=True)
class Import:
    """One imported module. deferred: inside a function; typing_only: for the type checker alone."""

    importer: str
    imported: str
    line: int
    deferred: bool
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer} line {self.line} imports {self.imported}"


@cache
def trees() -> dict[str, ast.Module]:
    """Dotted name inside the package ("" for itself) to syntax tree."""
    return {dotted(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def dotted(path: Path) -> str:
    """`sources/pcap.py` is sources.pcap, `sources/__init__.py` is sources."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def imports() -> tuple[Import, ...]:
    """Everything that any module imports; the package's own modules as `classifier.x`."""
    return tuple(each for name, tree in trees().items() for each in _Imports(name).of(tree))


class _Imports:
    def __init__(self, name: str) -> None:
        self.name = name

    def of(self, node: ast.AST, deferred: bool = False, typing_only: bool = False) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                for imported in self._names(child):
                    yield Import(self.name, imported, child.lineno, deferred, typing_only)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            checking = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from self.of(child, deferred or inside, typing_only or checking)

    def _names(self, statement: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(statement, ast.Import):
            return [alias.name for alias in statement.names]
        base = statement.module or ""
        if statement.level:
            base = ".".join(["classifier", *self._package()[: -statement.level + 1 or None], *filter(None, [base])])
        nested = [f"{base}.{alias.name}" for alias in statement.names]
        return [name if name.removeprefix("classifier.") in trees() else base for name in nested]

    def _package(self) -> list[str]:
        parts = self.name.split(".")
        return parts if (PACKAGE.joinpath(*parts) / "__init__.py").exists() else parts[:-1]
