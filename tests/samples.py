"""Results made by hand, small and large, for the tests of what is written out."""

from __future__ import annotations

from typing import Any

import numpy as np

from captures.makers.hostile import STRINGS
from classifier.errors import Damage
from classifier.fields import FIELDS, Coded, Column, Framed, Hole, Numbers, Texts, Times
from classifier.result import Result

HOSTILE = (*STRINGS, "lost \udcff byte", "x" * 20_000, "")
"""What strangers may have put into a banner, a name or an annotation."""

_PATHS = ["mailbox-mapi-rpc", "transport-hub-to-hub", "cas-active-directory"]


def _coded(values: list[Any], rows: int, rng: np.random.Generator) -> Coded:
    return Coded(rng.integers(0, len(values), rows, dtype=np.int32), values)


def _evidence(file: str, shape: int) -> list[dict[str, Any]]:
    facts = [
        ("interface", "uuid", "a4f1db00-ca47-1067-b31f-00dd010662da"),
        ("payload", "protocol", "dcerpc"),
        ("inventory", "server_role", "mailbox"),
    ]
    return [
        {"kind": kind, "field": field, "value": value, "frame": Hole(place), "file": file}
        for place, (kind, field, value) in enumerate(facts[:shape])
    ]


def columns(rows: int, seed: int = 7) -> dict[str, Column]:
    """Plausible columns of every shape."""
    rng = np.random.default_rng(seed)
    begun = 1_767_322_984_123_456_000 + np.sort(rng.integers(0, 10**10, rows)) * 1000
    nanoseconds = rng.integers(0, 2, rows)
    addresses = [f"10.{i // 250 % 250}.{i % 250}.7" for i in range(5000)] + ["2001:db8::17"]
    interface = {"uuid": "a4f1db00-ca47-1067-b31f-00dd010662da", "version": "0.81", "name": "EMSMDB"}
    resolution = {"kind": "ept_map", "uuid": interface["uuid"], "name": "EMSMDB", "file": "trace.pcapng"}
    frames = rng.integers(1, 2_000_000, (rows, 3))
    made: dict[str, Column] = {
        "id": Numbers(np.arange(1, rows + 1)),
        "community_id": Texts(np.array([f"1:{i:026d}+/=" for i in range(rows)], "S31")),
        "file": _coded(["trace.pcapng", "second trace.pcap"], rows, rng),
        "start": Times(begun + 7 * nanoseconds, np.where(nanoseconds, 9, 6).astype(np.int8)),
        "end": Times(begun + rng.integers(0, 10**8, rows) * 1000, np.full(rows, 6, np.int8)),
        "transport": _coded(["tcp", "udp"], rows, rng),
        "client_ip": _coded(addresses, rows, rng),
        "server_ip": _coded(addresses, rows, rng),
        "orientation": _coded(["syn", "payload"], rows, rng),
        "conn_state": _coded(["SF", "S0", None], rows, rng),
        "vlan": _coded([[], [10], [10, 200]], rows, rng),
        "tunnel": _coded([[], ["erspan2", "vxlan:42"]], rows, rng),
        "protocol": _coded(["dcerpc", "tls", None], rows, rng),
        "rpc_interfaces": Framed(
            rng.integers(0, 2, rows, dtype=np.int32), [[], [{**interface, "accepted": True, "frame": Hole(0)}]], frames
        ),
        "resolved_by": Framed(
            rng.integers(0, 2, rows, dtype=np.int32),
            [None, {**resolution, "frame": Hole(1), "conversation": Hole(0)}],
            frames,
        ),
        "data_paths": _coded([[], _PATHS[:1], _PATHS], rows, rng),
        "data_path": _coded([None, *_PATHS], rows, rng),
        "client_role": _coded([None, "client-access"], rows, rng),
        "server_role": _coded([None, "mailbox"], rows, rng),
        "exchange_versions": _coded([[], ["2010"], ["2007", "2010"]], rows, rng),
        "certainty": _coded(["certain", "weak"], rows, rng),
        "absence": _coded([None], rows, rng),
        "authentication": _coded(["kerberos", None], rows, rng),
        "encryption": _coded(["rpc-privacy", None], rows, rng),
        "tls_version": _coded(["1.2", None], rows, rng),
        "tls_sni": _coded([f"mail{i}.example.org" for i in range(300)] + [None], rows, rng),
        "ja4": _coded(["t13d1516h2_8daaf6152771_e5627efa2ab1", None], rows, rng),
        "findings": _coded([[]], rows, rng),
        "firewall_rules": _coded([[], ["MSExchangeRPC (TCP-In)", "MSExchangeRPC (GFW) (TCP-In)"]], rows, rng),
        "evidence": Framed(
            rng.integers(0, 4, rows, dtype=np.int32), [_evidence("trace.pcapng", shape) for shape in range(4)], frames
        ),
    }
    for field in FIELDS:
        if field.name not in made:
            made[field.name] = Numbers(rng.integers(0, 65_536, rows))
    return made


def result(rows: int, seed: int = 7, **changed: Column) -> Result:
    """A result of so many conversations, some columns changed, with a damage and an endpoint."""
    return Result(
        {**columns(rows, seed), **changed},
        damages=[Damage("trace.pcapng", 4711, "record cut short: 40 bytes of 60")],
        counters={"packets": rows * 20},
        inputs=["trace.pcapng"],
        endpoint_rows=lambda: [
            {
                "server_ip": "10.0.0.9", "transport": "tcp", "port": 49734, "kind": "ept_map", "frame": 400,
                "uuid": "a4f1db00-ca47-1067-b31f-00dd010662da", "version": "0.81", "name": "EMSMDB",
                "first_seen": 1_767_322_984_123_456_000, "last_seen": None, "file": "trace.pcapng",
                "conversation": 3, "address": "0.0.0.0", "annotation": HOSTILE[0], "disagreement": None,
            }
        ],
        host_rows=lambda: [{"address": "10.0.0.9", "roles": ["mailbox"], "versions": ["2010"], "source": "inventory",
                    "evidence": [], "contradictions": [
                        {"kind": "contradiction", "field": "2013", "value": "answers as the transport of Exchange 2013",
                         "conversation": 4, "frame": 81, "file": "trace.pcapng"}]}],
    )  # fmt: skip


def hostile() -> Result:
    """One conversation for each hostile string, which stands wherever a stranger can put one."""
    rows = len(HOSTILE)
    own = np.arange(rows, dtype=np.int32)
    objects = [[{"kind": "banner", "field": "text", "value": text, "frame": 1, "file": text}] for text in HOSTILE]
    return result(
        rows,
        tls_sni=Coded(own, list(HOSTILE)),
        data_path=Coded(own, list(HOSTILE)),
        file=Coded(own, list(HOSTILE)),
        evidence=Coded(own, objects),
        absence=Coded(own * 0, [None]),
    )
