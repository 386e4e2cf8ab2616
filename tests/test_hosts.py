"""The inventory: what the user knows of hosts."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import classifier
from classifier.errors import UsageError
from classifier.hosts import Deeds, Inventory, Known, Reason

CAPTURES = Path(__file__).parents[1] / "captures"


def inventory(tmp_path: Path, text: str) -> Inventory:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    return Inventory.load(path)


def test_the_longest_prefix_speaks(tmp_path: Path) -> None:
    known = inventory(tmp_path, """
        [[host]]
        address = "10.0.0.0/8"
        role = ["outlook"]
        [[host]]
        address = "10.1.0.5"
        role = ["client-access", "hub-transport"]
        version = "2010"
        name = "cas1.example.test"
        [[host]]
        address = "2001:db8::/32"
        role = "mailbox"
    """)  # fmt: skip
    assert known.known("10.9.9.9").roles == {"outlook"}
    assert known.known("10.1.0.5").roles == {"client-access", "hub-transport"}
    assert known.known("10.1.0.5").versions == {"2010"}
    assert known.known("2001:db8::7").roles == {"mailbox"}
    assert known.known("192.0.2.1") is None
    assert known.address_of("CAS1") == known.address_of("cas1.example.test.") == "10.1.0.5"
    assert known.address_of("nobody") == ""


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        inventory(tmp_path, """
            [[hosts]]
            [[host]]
            address = "10.0.0.300"
            [[host]]
            address = "10.0.0.1"
            role = ["mailbx"]
            versoin = "2010"
            [[host]]
            address = "10.0.0.1"
            version = "2012"
        """)  # fmt: skip
    text = str(told.value)
    assert "unknown key 'hosts'; did you mean 'host'?" in text
    assert "10.0.0.300" in text
    assert "unknown role 'mailbx'; did you mean 'mailbox'?" in text
    assert "unknown key 'versoin'; did you mean 'version'?" in text
    assert "unknown version '2012'" in text
    assert "stands here twice" in text


@pytest.mark.parametrize("text", ["not toml", "host = 3"])
def test_what_is_no_inventory_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"hosts\.toml"):
        inventory(tmp_path, text)


NETWORKS = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda pair: ip_network(pair, strict=False)),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda pair: ip_network(pair, strict=False)),
)
ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda number: str(ip_address(number))),
    st.integers(2**32, 2**128 - 1).map(lambda number: str(ip_address(number))),
)


@given(st.sets(NETWORKS, max_size=8), ADDRESSES, st.data())
def test_the_longest_prefix_of_all_that_hold_the_address(networks: set, address: str, data: st.DataObject) -> None:
    if networks and data.draw(st.booleans()):
        address = str(data.draw(st.sampled_from(sorted(networks, key=str))).network_address)
    known = Inventory({network: Known(name=str(network)) for network in networks})
    around = [network for network in networks if ip_address(address) in network]
    longest = max(around, key=lambda network: network.prefixlen, default=None)
    assert known.known(address) == (None if longest is None else Known(name=str(longest)))


def test_a_host_may_be_listed_with_nothing_but_its_address(tmp_path: Path) -> None:
    known = inventory(tmp_path, '[[host]]\naddress = "10.0.0.1"')
    assert (known.known("10.0.0.1"), known.known("10.0.0.2")) == (Known(), None)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 9), st.integers(0, 99)), max_size=40)


@given(ROWS, st.sets(st.integers(0, 4)))
def test_of_an_act_of_a_host_the_first_conversation_counts(rows: list[tuple[int, int, int, int]], asked: set) -> None:
    acts = ["serves-mapi", "asks-the-directory", "greets"]
    deeds = Deeds.of(acts, np.array(rows, np.int64).reshape(-1, 4).T)
    told: dict[int, dict[str, Reason]] = {}
    for host, act, conversation, frame in sorted(rows, key=lambda row: row[2]):
        told.setdefault(host, {}).setdefault(acts[act], Reason(acts[act], conversation, frame))
    assert deeds.by_host(asked) == {host: did for host, did in told.items() if host in asked}
    for host, did in told.items():
        frames = deeds.frames_of(np.full(len(did), host), np.array([acts.index(act) for act in did]))
        assert frames.tolist() == [reason.frame for reason in did.values()]


def test_a_single_table_and_an_empty_file_are_inventories(tmp_path: Path) -> None:
    assert inventory(tmp_path, '[host]\naddress = "10.0.0.1"\nrole = "mailbox"').known("10.0.0.1").roles == {"mailbox"}
    assert inventory(tmp_path, "").entries == {}


def test_a_network_has_no_name_to_look_up(tmp_path: Path) -> None:
    known = inventory(tmp_path, '[[host]]\naddress = "10.0.0.0/24"\nname = "site1"')
    assert known.address_of("site1") == ""
    assert known.known("10.0.0.9").name == "site1"


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ('role = "mailbox"', "address is missing"),
        ("address = 5", "address 5 is no text"),
        ('address = "10.0.0.1/33"', "10.0.0.1/33"),
        ('address = "mbx1.example.test"', "mbx1.example.test"),
        ('address = "10.0.0.1"\nrole = [["mailbox"]]', "unknown role"),
        ('address = "10.0.0.1"\nversion = 2010', None),
        ('address = "10.0.0.1"\nversion = "se"', "did you mean 'SE'?"),
        ('address = "10.0.0.1"\nname = ["a"]', "name ['a'] is no text"),
    ],
)
def test_each_mistake_is_told_with_its_host(tmp_path: Path, host: str, said: str | None) -> None:
    text = f'[[host]]\naddress = "10.9.9.9"\n[[host]]\n{host}'
    if said is None:
        inventory(tmp_path, text)
        return
    with pytest.raises(UsageError) as told:
        inventory(tmp_path, text)
    assert "host 2: " in str(told.value)
    assert said in str(told.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'[[host]]\nname = "caf\xe9"')
    for path in (tmp_path / "latin.toml", tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UsageError, match="inventory"):
            Inventory.load(path)


def test_hosts_of_a_capture_are_those_of_the_inventory() -> None:
    """Those that talk, with all that is known of them; nobody else."""
    capture = CAPTURES / "ticket-49734.pcapng"
    result = classifier.classify(capture, inventory=capture.with_suffix(".inventory.toml"))
    talking = {address for talk in result for address in (talk.client_ip, talk.server_ip)}
    assert {row["address"] for row in result.host_rows} <= talking
    assert {row["source"] for row in result.host_rows} == {"inventory"}
    assert all(row["roles"] for row in result.host_rows)
