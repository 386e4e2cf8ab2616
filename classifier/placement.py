"""Where a conversation stands against where the documents put it: the roles of both sides, the protocol of the port.

Asks `verdicts` and `matching`; decides no label. Must not know what a finding is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from .matching import Facts, candidates
from .model import EXCHANGE_ROLES
from .rules import Form, Rulebook, Service
from .verdicts import misplaced

DOCUMENTED, OTHER = "documented", "other"

_SHARED: Final = frozenset({135, 139, 445, 593})
"""Ports on which every Windows service may be reached ([MS-RPCE] 2.1.1): no row of the documents covers them all."""


class Displacement(NamedTuple):
    """A documented way of data between wrong hosts. sides: who is out of place. clients, servers: roles that the
    documents name; paths: ids of the ways."""

    sides: frozenset[str] = frozenset()
    clients: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


NOWHERE: Final = Displacement()


@lru_cache(maxsize=4096)
def displacement(rulebook: Rulebook, facts: Facts) -> Displacement:
    """Which side of these facts has a role that no document puts there; NOWHERE if none."""
    ways = [] if facts.protocol == "epm" else misplaced(rulebook, facts)  # every host may ask a mapper
    if not ways:
        return NOWHERE
    wrong_client = [each for each, (client, _) in ways if not client]
    wrong_server = [each for each, (_, server) in ways if not server]
    return Displacement(
        frozenset(side for side, found in (("client", wrong_client), ("server", wrong_server)) if found),
        _joined(each.clients for each in wrong_client),
        _joined(each.servers for each in wrong_server),
        _joined((each.path.id,) for each, _ in ways),
    )


def _joined(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for group in groups for word in group))


# ---- what a port should speak ---------------------------------------------------------------------


def port_speaks(rulebook: Rulebook, facts: Facts) -> str | None:
    """Whether the payload is what the documents say of this port of an Exchange server with these roles.

    None where they don't name the port for such a server, or where nobody can say (no payload, a service whose bytes
    no inspector reads).
    """
    if facts.protocol is None or facts.server_port in _SHARED:
        return None
    protocols = documented_protocols(rulebook, facts)
    return (DOCUMENTED if facts.protocol in protocols else OTHER) if protocols else None


def documented_protocols(rulebook: Rulebook, facts: Facts) -> frozenset[str]:
    """What the documents say that this port of a server with these roles speaks; empty where that is open."""
    rows = _by_port(rulebook).get((facts.transport, facts.server_port), ())
    own = [protocols for servers, protocols in rows if not servers.isdisjoint(facts.server_roles)]
    spoken: frozenset[str] = frozenset() if None in own else frozenset().union(*(each for each in own if each))
    return spoken | {"rpc-over-http"} if "http" in spoken else spoken


_Row = tuple[frozenset[str], frozenset[str] | None]
"""Exchange roles that serve a port, and the payload protocols of it; None: somebody's bytes can't be read."""


@lru_cache(maxsize=8)
def _by_port(rulebook: Rulebook) -> Mapping[tuple[str, int], list[_Row]]:
    found: dict[tuple[str, int], list[_Row]] = {}
    for candidate in candidates(rulebook):
        servers = EXCHANGE_ROLES.intersection(candidate.servers) - {"exchange-server"}
        for endpoint in (*candidate.form.endpoints, *candidate.form.implied_endpoints):
            if servers and endpoint.kind == "port" and endpoint.low == endpoint.high:
                row = servers, _protocols(rulebook, candidate.form, endpoint.low)
                found.setdefault((endpoint.transport, endpoint.low), []).append(row)
    return found


def _protocols(rulebook: Rulebook, form: Form, port: int) -> frozenset[str] | None:
    services = [rulebook.services[name] for name in form.speaks]
    if any(service.opaque for service in services):
        return None
    return frozenset(protocol for service in services for protocol in _spoken(service, port))


def _spoken(service: Service, port: int) -> Iterator[str]:
    yield from (protocol for protocol, at in service.plain if at in (0, port))
    yield from service.over if service.interfaces or service.unknown_interface else ()
    for condition in (*service.proof, *service.hint, *service.mark):
        yield from (name.partition(".")[0] for name in condition)
