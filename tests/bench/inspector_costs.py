"""What each inspector costs: reading a conversation of its protocol, and refusing everybody else's.

Run as a program: `PYTHONPATH=tests:. python -m bench.inspector_costs`. Microseconds of one core, best of five.
"""

from __future__ import annotations

from collections.abc import Callable
from timeit import repeat

from inspectors.playbook import tcp, udp
from inspectors.spoken import TALKS

from classifier.inspectors import INSPECTORS, TCP, UDP, inspect
from classifier.inspectors.base import Dialogue

STRANGERS = tcp(bytes(range(200, 256)) * 4, bytes(range(100, 200))), udp([bytes(range(200, 256))], [bytes(range(99))])


def cost(ask: Callable[[Dialogue], object], dialogue: Dialogue) -> float:
    """Microseconds of one call."""
    return min(repeat(lambda: ask(dialogue), number=500, repeat=5)) / 500 * 1e6


def main() -> None:
    """Print the two tables."""
    print(f"{'INSPECTOR':20}{'OVER':6}{'OCTETS':>7}{'ITS OWN':>10}{'ALL':>10}")
    for talk in TALKS:
        own, dialogue = INSPECTORS[talk.inspector], talk.dialogue()
        size = sum(len(each.data) for each in talk.said)
        costs = f"{cost(own, dialogue):10.1f}{cost(inspect, dialogue):10.1f}"
        print(f"{talk.inspector:20}{talk.transport:6}{size:7}{costs}")
    for dialogue, listed in zip(STRANGERS, (TCP, UDP), strict=True):
        print(f"\nunknown over {dialogue.transport}: all {cost(inspect, dialogue):.1f}")
        print("  " + ", ".join(f"{name} {cost(ask, dialogue):.1f}" for name, ask, _ in listed))


if __name__ == "__main__":
    main()
