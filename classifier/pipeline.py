"""From captures to a result: `run`, which has packets read while it still loads what reads their meaning.

sources ▸ headers ▸ fragments ▸ conversations + streams        (compiled, batch by batch: `assembly`)
▸ orientation ▸ inspection ▸ endpoint map                       (once, over all conversations: `conclusion`)
▸ first decisions ▸ hosts ▸ labels ▸ columns
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.assembly import Assembling
from classifier.sources import CaptureSet, Progress

if TYPE_CHECKING:
    from classifier.result import Result


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is asked to use.

    jobs: 1 reads, assembles and inspects in turns; more does so at once, in as many threads or processes; None: as many
    as there are cores.
    policy: the user's own findings; accept: findings that the user lives with (both TOML).
    keylog: session keys of TLS, as libraries log them.
    """

    inventory: Path | None = None
    signatures: Path | None = None
    endpoint_map: Path | None = None
    jobs: int | None = None
    policy: Path | None = None
    accept: Path | None = None
    keylog: Path | None = None


def run(
    inputs: Sequence[str | Path],
    settings: Settings | None = None,
    progress: Progress | None = None,
    ahead: Callable[[], object] | None = None,
) -> Result:
    """Classify one capture set. ahead: what to do while packets are waited for.

    Raises UsageError (a missing file, a broken inventory, endpoint map or signature). Damage to a capture is
    no error: it is told in the result's `damages`, and what could be read is classified. Nor is an endpoint map
    that can't be written: `failures` tells.
    """
    settings = settings or Settings()
    begin = partial(_begun, inputs, settings.jobs or os.cpu_count() or 1)
    with _collector_at_rest(), begin(progress) as assembling:
        from classifier import conclusion  # packets are read while it is loaded

        knowledge = conclusion.Knowledge.of(settings)
        if ahead is not None:
            ahead()
        result = conclusion.classified(assembling, knowledge, begin)
    if settings.endpoint_map:
        try:
            knowledge.endpoint_map.save(settings.endpoint_map)
        except OSError as error:
            result.failures.append(f"endpoint map {settings.endpoint_map} was not written: {error.strerror}")
    return result


def _begun(inputs: Sequence[str | Path], jobs: int, progress: Progress | None = None) -> Assembling:
    return Assembling(CaptureSet.of(inputs), jobs, progress)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No garbage collection: what is built holds no cycles, and there is much of it (a quarter of the time)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
