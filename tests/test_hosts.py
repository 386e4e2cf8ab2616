"""The inventory: what the user knows of hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from classifier.errors import UsageError
from classifier.hosts import Inventory


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
    assert known.known("192.0.2.1").roles == frozenset()
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
    assert "unknown key 'hosts' (did you mean 'host'?)" in text
    assert "10.0.0.300" in text
    assert "unknown role 'mailbx' (did you mean 'mailbox'?)" in text
    assert "unknown key 'versoin' (did you mean 'version'?)" in text
    assert "unknown version '2012'" in text
    assert "stands here twice" in text


@pytest.mark.parametrize("text", ["not toml", "host = 3"])
def test_what_is_no_inventory_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"hosts\.toml"):
        inventory(tmp_path, text)
