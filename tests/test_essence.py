"""What is blanked before openings are compared is nothing that an inspector reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import shared

from classifier import essence, inspectors
from classifier.assembly import assemble
from classifier.conclusion import named_ports
from classifier.conversations import ConversationTable
from classifier.dialogues import dialogues as dialogues_of
from classifier.inspection import Reading
from classifier.inspectors.base import Chunk, Dialogue, Evidence, Stream
from classifier.orientation import Orientation, first_look
from classifier.sources import CaptureSet

pytestmark = pytest.mark.kernels

SHIPPED = Path(__file__).parents[1] / "captures"


def table_of(path: Path) -> tuple[ConversationTable, Orientation]:
    table = assemble(CaptureSet.of([path]), jobs=1).table
    return table, first_look(table, named_ports(shared.rulebook()))


def dialogues(path: Path) -> Iterator[Dialogue]:
    table, orientation = table_of(path)
    yield from dialogues_of(table, orientation, np.arange(table.count))


def cleaned(dialogue: Dialogue) -> Dialogue | None:
    """The dialogue's essence as a dialogue of its own.

    None where a stream has holes or several datagrams, which is compared as it is; and for RPC, where lengths
    and call ids are rewritten, so that its essence is no dialogue any more.
    """
    streams = dialogue.to_server, dialogue.to_client
    if any(len(stream.chunks) > 1 or stream.head[:1] == b"\x05" for stream in streams):
        return None
    heads = [np.frombuffer(stream.head, np.uint8).copy() for stream in streams]
    first = heads[0] if len(heads[0]) else heads[1]
    call = essence.first_call_id(first, 0, len(first))
    stubs = essence.reads_stubs(heads[0], 0, len(heads[0]))
    tcp, kept = dialogue.transport == "tcp", []
    for head, port in zip(heads, (dialogue.client_port, dialogue.server_port), strict=True):
        end = essence.clean(head, 0, len(head), tcp, call, port, stubs)
        kept.append(head[:end].tobytes())
    to_server, to_client = (
        stream._replace(chunks=(Chunk(0, data),) if data else ()) for stream, data in zip(streams, kept, strict=True)
    )
    return dialogue._replace(to_server=to_server, to_client=to_client)


def told(found: object) -> object:
    """What users see of evidence, without what depends on bytes behind the last one that matters."""
    if not isinstance(found, Evidence):
        return found
    return {item.name: getattr(found, item.name) for item in fields(Evidence) if item.name not in ("limited", "gap")}


def differences(path: Path) -> list[tuple[object, object]]:
    pairs = [(dialogue, cleaned(dialogue)) for dialogue in dialogues(path)]
    both = [
        (told(inspectors.inspect(one)), told(inspectors.inspect(other))) for one, other in pairs if other is not None
    ]
    return [(one, other) for one, other in both if one != other]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.pcap*")), ids=lambda path: path.name)
def test_inspectors_find_the_same_in_the_essence(path: Path) -> None:
    assert differences(path) == []


@shared.needed
def test_inspectors_find_the_same_in_the_essence_of_real_captures() -> None:
    wrong = {name: found for name in shared.captures("real") if (found := differences(shared.FOLDER / name))}
    assert {name: found[0] for name, found in wrong.items()} == {}


def grouping_changes(path: Path) -> list[int]:
    """Conversations for which reading one of a group gives other evidence than reading each."""
    table, orientation = table_of(path)
    grouped = Reading().rest(table, orientation)
    alone = [inspectors.inspect(dialogue) for dialogue in dialogues_of(table, orientation, np.arange(table.count))]
    return [
        index
        for index, found in enumerate(alone)
        if grouped.codes[index] and told(grouped.found[grouped.codes[index]]) != told(found)
    ]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.pcap*")), ids=lambda path: path.name)
def test_one_of_a_group_speaks_for_all_of_a_capture(path: Path) -> None:
    assert grouping_changes(path) == []


@shared.needed
def test_one_of_a_group_speaks_for_all_of_real_captures() -> None:
    wrong = {name: found for name in shared.captures("real") if (found := grouping_changes(shared.FOLDER / name))}
    assert wrong == {}


def test_one_of_a_group_speaks_for_all(tmp_path: Path) -> None:
    from tests.bench import make_capture

    capture = tmp_path / "bench.pcap"
    make_capture.main(["-o", str(capture), "--packets", "60000", "--conversations", "3000"])
    table, _ = table_of(capture)
    assert table.count == 3000
    assert grouping_changes(capture) == []


def test_an_empty_stream_has_no_essence_to_lose() -> None:
    assert cleaned(Dialogue("tcp", Stream(), Stream())) == Dialogue("tcp", Stream(), Stream())
