"""Imports go one way: a room of the house knows the rooms before it, and nothing of those behind it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .modules import Import, imports, trees

ROOMS = (
    "errors limits model fields keeping machine_code compiled compiling hashing toml_files memory beside",
    "packets addresses numbering blocks tools",
    "sources headers fragments community_id",
    "inspectors.base",
    "streams conversations orientation retirement",
    "assembly",
    "inspectors",
    "crew",
    "dialogues digests essence inspection",
    "endpoints rules rulebook",
    "matching",
    "hosts verdicts placement reasoning roles expectations findings rulecheck",
    "labelling acquaintance testimony columns",
    "audit selection acceptance",
    "result excerpt",
    "decryption",
    "conclusion",
    "pipeline",
    "ended",
    "following",
    "sniffing",
    "lines",
    "records explanation",
    "ecs sarif",
    "arrow tables extraction dissectors overview hostmap profile firewall figures",
    "report deep",
    "sinks packet_ring",
    "cli",
)
"""The order; modules of one line may import each other, as long as that goes one way too."""

RANK = {room: rank for rank, line in enumerate(ROOMS) for room in line.split()}

ON_DEMAND = {
    "": "public names of the package, loaded with their first use (PEP 562)",
    "result": "a result is framed, shown and explained by rooms behind it, when a user asks for that",
}
"""Modules that may reach rooms behind them from inside a function."""

ONLY_IN = {
    "matplotlib": {"figures"},
    "pandas": {"tables"},
    "pyarrow": {"arrow"},
    "pyshark": {"deep"},
    "click": {"cli"},
    "jinja2": {"report"},
    "scapy": {"sources", "deep"},
}
"""Who may import a heavy or outward library (a mention for the type checker alone loads nothing)."""

INSIDE = [each for each in imports() if each.imported.partition(".")[0] == "classifier"]


def room(module: str) -> str:
    """The line of ROOMS that a module belongs to: its own name, or its package's."""
    inside = module.removeprefix("classifier").lstrip(".")
    return inside if inside in RANK else inside.partition(".")[0]


@pytest.mark.parametrize("module", sorted({room(name) for name in trees()} - {""}))
def test_every_module_has_its_place(module: str) -> None:
    assert module in RANK, f"{module} stands nowhere in ROOMS"


def goes_forth(each: Import) -> bool:
    """Whether an import reaches a room behind the importer's; what has no place is another test's matter."""
    return RANK.get(room(each.imported), -1) > RANK.get(room(each.importer), len(ROOMS))


@pytest.mark.parametrize("module", trees())
def test_imports_go_one_way(module: str) -> None:
    forth = [each for each in INSIDE if each.importer == module and not each.typing_only and goes_forth(each)]
    assert not [str(each) for each in forth if not (each.deferred and module in ON_DEMAND)]


def test_the_package_itself_loads_its_rooms_on_demand() -> None:
    assert all(each.deferred or each.typing_only for each in INSIDE if each.importer == "")


def test_no_import_goes_round() -> None:
    now: dict[str, set[str]] = {name: set() for name in trees()}
    for each in INSIDE:
        if not each.typing_only and not each.deferred:
            now[each.importer].add(each.imported.removeprefix("classifier").lstrip("."))
    while now:
        free = {name for name, needed in now.items() if not needed & now.keys() - {name}}
        assert free, f"these import each other in a circle: {sorted(now)}"
        now = {name: needed for name, needed in now.items() if name not in free}


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_one_home(library: str) -> None:
    strangers = [
        str(each)
        for each in imports()
        if each.imported.partition(".")[0] == library
        and not each.typing_only
        and room(each.importer) not in ONLY_IN[library]
    ]
    assert not strangers


@pytest.mark.parametrize("module", ["classifier", "classifier.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = "numpy numba matplotlib pandas pyarrow scapy pyshark rich"
    code = f"import sys, {module}; print(*(set({heavy.split()!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
