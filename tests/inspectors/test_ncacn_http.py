"""The greeting of ncacn_http endpoints, and the RPC behind it."""

from __future__ import annotations

import pytest
from inspectors.rpc_writer import (
    EPM,
    NDR32,
    NSPI,
    ack,
    bind,
    dialogue,
    map_answer,
    map_request,
    request,
    response,
    tower,
)

from classifier.inspectors import ncacn_http
from classifier.inspectors.base import NOT_THIS, WAIT

GREETING = b"ncacn_http/1.0"


def test_queries_behind_the_greeting():
    asked = [bind([(0, EPM, "3.0", [NDR32])]), request(3, map_request())]
    told = [GREETING, ack([(0, NDR32)], address=b"593"), response(map_answer([tower(endpoint=0x1F, port=6001)]))]
    found = ncacn_http.inspect(dialogue(asked, told))
    assert (found.protocol, found.reversed) == ("epm", False)
    assert [item.uuid for item in found.interfaces] == [EPM]
    assert [query.status for query in found.queries] == [0]
    assert [(item.kind, item.transport, item.port) for item in found.handouts] == [
        ("secondary-address", "tcp", 593),
        ("ept_map", "http", 6001),
    ]
    assert found.handouts[1].place.offset == len(GREETING) + len(told[1])


def test_the_greeting_tells_the_server():
    found = ncacn_http.inspect(dialogue([GREETING, ack([(0, NDR32)])], [bind([(0, NSPI, "56.0", [NDR32])])]))
    assert found.reversed is True
    assert [item.accepted for item in found.interfaces] == [True]


def test_the_greeting_alone_is_enough():
    assert ncacn_http.inspect(dialogue([], [GREETING])).protocol == "ncacn-http"


@pytest.mark.parametrize("size", range(1, 14))
def test_part_of_the_greeting(size):
    assert ncacn_http.inspect(dialogue([], [GREETING[:size]])) is WAIT


def test_other_greetings():
    assert ncacn_http.inspect(dialogue([b"GET"], [b"220 ready\r\n"])) is NOT_THIS
