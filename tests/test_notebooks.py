"""Every notebook runs from its first cell to its last, shows what its story promises, and is stored without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PROMISES = {
    "audit": ("password-in-clear", "tls-broken-version", "TLSv1.0 with a server of ours", "encryption deviates"),
    "first-look": (
        "25 conversations", "cas-to-mailbox", "image/png", "transport-hub-to-hub", "not-exchange", "Ether / IP / TCP",
    ),
    "live": ("events, ", "capture_loss"),
    "unexpected-ports": ("cas-to-mailbox", "'frame': 400", "(1, '0xc246')", "kerberos rpc-privacy"),
    "unknown-network": ("client-access", "opens mailboxes", "What would settle it", "[[host]]"),
    "write-a-signature": ("did you mean 'mailbox'", "archive-to-mailbox", "foreign-wmi.pcap unchanged"),
}
"""What the outputs of each must hold."""


def run(path: Path) -> str:
    """All that a notebook shows, in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(
        str(each.get("text", "")) + "".join(f"{kind} {value}" for kind, value in each.get("data", {}).items())
        for each in outputs
    )


def test_every_notebook_has_its_promises() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(PROMISES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path) -> None:
    shown = run(path)
    assert [promise for promise in PROMISES[path.stem] if promise not in shown] == []
    assert "CHANGED" not in shown
    if path.stem == "live":
        assert ("NOT LIVE" in shown) == (not may_listen())
        assert "smtp" in shown


def test_without_an_interface_the_live_one_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code as a script: no kernel is needed for what is printed."""
    path = next(path for path in NOTEBOOKS if path.stem == "live")
    monkeypatch.setenv("EXFLOW_INTERFACE", "nowhere0")
    monkeypatch.chdir(path.parent)
    names: dict[str, object] = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    shown = capsys.readouterr().out
    assert "NOT LIVE" in shown
    assert "25 events, from a file" in shown


def may_listen() -> bool:
    """Whether this process has the right that a packet socket takes."""
    import socket

    if not hasattr(socket, "AF_PACKET"):
        return os.geteuid() == 0
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except PermissionError:
        return False
    return True
