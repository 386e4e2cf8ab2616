"""An answer beside the truth that an INDEX.toml states: where they disagree (captures/README.md has the fields)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import classifier

RANKS = ("weak", "strong", "certain")


def disagreements(
    truth: dict[str, Any], said: dict[tuple[str, int], classifier.Conversation], *, inferred: bool = False
) -> Iterator[str]:
    """One line for each field in which the answer is not the truth.

    inferred: nothing was said about the hosts; then what rests on roles may stay open, but may not be wrong.
    """
    talk = said.get((truth["transport"], truth["first_frame"]))
    where = f"frame {truth['first_frame']}, port {truth['server'][1]}"
    if talk is None:
        yield f"{where}: not found"
        return
    answer = talk.to_dict()
    answer["client"] = [answer["client_ip"], answer["client_port"]]
    answer["server"] = [answer["server_ip"], answer["server_port"]]
    checks = CHECKS | BLURRED if "hidden" in truth else CHECKS | OPEN if inferred else CHECKS
    for name, check in checks.items():
        if name in truth and not check(truth[name], answer):
            yield f"{where}: {name} should be {truth[name]}, is {answer.get(name)} {summary(answer)}"
    for path in set() if inferred else unexpected(truth, answer):
        yield f"{where}: data path {path} is wrong, right are {truth.get('data_paths', [])} {summary(answer)}"


def summary(answer: dict[str, Any]) -> str:
    names = ("protocol", "data_paths", "client_role", "server_role", "certainty", "absence", "orientation")
    return "(" + ", ".join(f"{name}={answer[name]}" for name in names) + ")"


def unexpected(truth: dict[str, Any], answer: dict[str, Any]) -> set[str]:
    """Ids in the answer that the evidence excludes; claimed only where the truth names paths."""
    if "data_paths" not in truth or ("hidden" in truth and answer["certainty"] == "weak"):
        return set()
    return set(answer["data_paths"]) - set(truth["data_paths"]) - set(truth.get("also", []))


def same(name: str) -> Any:
    return lambda wanted, answer: answer[name] == wanted


def among(name: str) -> Any:
    return lambda wanted, answer: answer[name] in wanted


def right_interfaces(wanted: list[dict[str, Any]], answer: dict[str, Any]) -> bool:
    seen = [{"uuid": item["uuid"]} | accepted(item) for item in answer["rpc_interfaces"]]
    return seen == wanted


def accepted(item: dict[str, Any]) -> dict[str, bool]:
    return {} if item["accepted"] is None else {"accepted": item["accepted"]}


def right_origin(wanted: dict[str, Any], answer: dict[str, Any]) -> bool:
    origin = answer["resolved_by"] or {}
    first, last = wanted["frames"]
    return origin.get("kind") == wanted["kind"] and first <= origin["frame"] <= last


def right_certainty(wanted: list[str], answer: dict[str, Any]) -> bool:
    least, most = (RANKS.index(word) for word in wanted)
    return answer["certainty"] in RANKS[least : most + 1]


def right_absence(wanted: list[str], answer: dict[str, Any]) -> bool:
    """No label for one of the right reasons; `weak` is allowed, more is a false alarm."""
    return answer["certainty"] == "weak" or answer["absence"] in wanted


CHECKS = {
    "client": same("client"),
    "server": same("server"),
    "protocol": same("protocol"),
    "rpc_interfaces": right_interfaces,
    "resolved_by": right_origin,
    "data_paths": lambda wanted, answer: set(wanted) <= set(answer["data_paths"]),
    "client_role": same("client_role"),
    "server_role": same("server_role"),
    "certainty": right_certainty,
    "absence": right_absence,
    "authentication": among("authentication"),
    "encryption": among("encryption"),
}


def or_open(name: str) -> Any:
    """Right, or not answered."""
    return lambda wanted, answer: answer[name] in (None, [], "exchange-server") or CHECKS[name](wanted, answer)


OPEN = {name: or_open(name) for name in ("client_role", "server_role", "certainty", "data_paths", "resolved_by")}
"""What replaces the checks of that which rests on roles, where roles can only be inferred."""


def seen_in_part(wanted: list[dict[str, Any]], answer: dict[str, Any]) -> bool:
    """Some of the interfaces, and of the server's results."""
    uuids = {item["uuid"]: item.get("accepted") for item in wanted}
    return all(
        item["uuid"] in uuids and item["accepted"] in (None, uuids[item["uuid"]]) for item in answer["rpc_interfaces"]
    )


def some_paths(wanted: list[str], answer: dict[str, Any]) -> bool:
    """A weak label names all that is true, and may name more; a surer one may name less (`unexpected` sees to more)."""
    return answer["certainty"] != "weak" or set(wanted) <= set(answer["data_paths"])


BEGUN_WITH = {"smtp": ("smtp", "tls"), "epm": ("epm", "dcerpc"), "http": ("http",), "dcerpc": ("dcerpc",)}
UNSEEN = (None, "unknown-encrypted")

BLURRED = {name: or_open(name) for name in ("client_role", "server_role", "resolved_by")} | {
    "protocol": lambda wanted, answer: answer["protocol"] in (None, "unknown", *BEGUN_WITH.get(wanted, (wanted,))),
    "rpc_interfaces": seen_in_part,
    "data_paths": some_paths,
    "certainty": lambda wanted, answer: answer["certainty"] is None or right_certainty(["weak", wanted[1]], answer),
    "authentication": lambda wanted, answer: answer["authentication"] in (*UNSEEN, *wanted),
    "encryption": lambda wanted, answer: answer["encryption"] in (None, *wanted),
}
"""What replaces the checks where the truth is `hidden`: less may be said, nothing that is not so."""
