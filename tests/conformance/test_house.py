"""House rules as programs: who prints and exits, how modules open, what every column must have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from classifier import compiled, fields, model
from classifier.result import Result

from .modules import dotted, trees

LONGEST_FUNCTION = 60
"""Lines; ten are common here, forty are rare."""

LONGEST_KERNEL = 160
"""The one loop of a compiled kernel keeps its state in local variables, and can be split only so far."""


def calls(tree: ast.Module) -> Iterator[str]:
    return (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))


@pytest.mark.parametrize("module", [name for name in trees() if name.partition(".")[0] != "cli"])
def test_only_the_command_prints_reads_argv_or_exits(module: str) -> None:
    outward = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write", "sys.stderr.write"}
    forked = {"os._exit"} if module == "beside" else set()  # a forked process ends where it was made
    assert not (outward - forked) & set(calls(trees()[module]))
    assert not any(
        "sys.argv" in ast.unparse(node) for node in ast.walk(trees()[module]) if isinstance(node, ast.Attribute)
    )


@pytest.mark.parametrize("module", trees())
def test_a_module_opens_with_what_it_owns(module: str) -> None:
    tree = trees()[module]
    assert ast.get_docstring(tree) or not tree.body


def is_kernel(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) in ("inlined", "kernel") for decorator in function.decorator_list)


@pytest.mark.parametrize("source", compiled.kernel_sources(), ids=lambda path: path.stem)
def test_compiled_kernels_are_kept_by_all_that_they_take_in(source: Path) -> None:
    """A constant of another module is part of the machine code: a change of it must compile anew."""
    hashed = {dotted(path) for path in compiled.kernel_sources()}
    constants = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("classifier.")
        for alias in node.names
        if alias.name.isupper() and (node.module or "").removeprefix("classifier.") not in hashed
    }
    assert not constants


@pytest.mark.parametrize("module", trees())
def test_functions_are_short(module: str) -> None:
    functions = [node for node in ast.walk(trees()[module]) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    allowed = {node.name: LONGEST_KERNEL if is_kernel(node) else LONGEST_FUNCTION for node in functions}
    assert not {name: length for name, length in lengths.items() if length > allowed[name]}


@pytest.mark.parametrize("module", trees())
def test_nothing_is_left_to_do(module: str) -> None:
    tree = trees()[module]
    assert not any(ast.unparse(node) == "raise NotImplementedError" for node in ast.walk(tree))


@pytest.mark.parametrize("module", [name for name in trees() if name.startswith("inspectors.")])
def test_inspectors_do_no_input_or_output(module: str) -> None:
    assert not {"open", "Path", "subprocess.run", "socket.socket"} & set(calls(trees()[module]))


@pytest.mark.parametrize("name", ["data_path", "evidence", "id", "start", "vlan"])
def test_the_contracts_fields_are_attributes_of_every_table(name: str) -> None:
    assert name in fields.NAMES
    assert name in Result.empty().columns


def test_closed_vocabularies_are_those_of_the_model() -> None:
    words = {field.name: field.words for field in fields.FIELDS if field.words}
    assert words["certainty"] == model.CERTAINTIES
    assert words["absence"] == model.ABSENCES
    assert words["client_role"] == words["server_role"] == model.ROLES


def test_every_object_column_says_what_its_objects_have() -> None:
    tables = (fields.FIELDS, fields.ENDPOINT_FIELDS, fields.HOST_FIELDS, fields.FINDING_FIELDS)
    objects = [field for table in tables for field in table if "object" in field.kind]
    assert objects
    assert all(field.members for field in objects)
