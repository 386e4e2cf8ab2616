"""Make a large, realistic capture in seconds: `python -m tests.bench.make_capture -o /tmp/big.pcap`.

Conversations are played from a few hundred scripts (`scripts.py`): handshake, opening, bulk, teardown. numpy lays
them out (who, when, which sequence numbers), one compiled loop copies the frames and patches what differs from
conversation to conversation: addresses, ports, randoms, and the port inside endpoint-mapper answers, on which the
following RPC conversation of the same client then really takes place. The same options give the same bytes.

Beside OUT it writes OUT.json: what is in it, kind by kind, so that a reader's answer can be checked. With `--taps`
packets go in turns to as many captures, OUT-1 and so on, which overlap from their first packet to their last one.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tests.bench.scripts import ADDRESS, IDENTITY, PORT, PORT_TEXT, SCRIPTS, Kind, Step

EPOCH_US = 1_700_000_000 * 1_000_000
ETHERNET, IPV4, TCP_HEADER, SYN_OPTIONS, UDP_HEADER = 14, 20, 20, 12, 8
OPTIONS = bytes.fromhex("020405b40103030801010402")
POOL = 1 << 20
BLOCK = 48 << 20
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MSS = 1460

Ints = NDArray[np.int64]


@dataclass
class Library:
    """All scripts flattened: one row per step, one row per patch, all contents in one byte array."""

    content: NDArray[np.uint8]
    start: Ints  # step: where its contents begin
    size: Ints  # step: bytes of contents
    side: Ints  # step: 0 from the client, 1 from the server
    flags: Ints  # step: TCP flags; 0 for UDP
    bulk: Ints  # step: 0, or how a length is written into it (1 TLS record, 2 RPC fragment, 3 nowhere)
    first_patch: Ints  # step: its first row in the patches
    patches: Ints  # rows of (offset, size, what)
    first_step: Ints  # script: its first step
    steps: Ints  # script: number of steps
    bulk_at: Ints  # script: index of its first bulk step, or -1


def flatten(kinds: list[Kind]) -> tuple[Library, list[str], Ints]:
    """Library of all variants of all kinds; the kind of each script, and the first script of each kind."""
    steps: list[tuple[Step, int]] = []
    first, count, bulk_at, names, first_script = [], [], [], [], []
    for kind in kinds:
        first_script.append(len(names))
        for variant in kind.variants:
            played = frames_of(kind, variant)
            first.append(len(steps))
            count.append(len(played))
            bulk_at.append(next((index for index, (step, _) in enumerate(played) if step.bulk), -1))
            steps.extend(played)
            names.append(kind.name)
    contents = [step.data for step, _ in steps]
    sizes = np.array([len(data) for data in contents], np.int64)
    patches = [patch for step, _ in steps for patch in step.patches]
    library = Library(
        content=np.frombuffer(b"".join(contents) + b"\0", np.uint8),
        start=np.concatenate([[0], np.cumsum(sizes)[:-1]]),
        size=sizes,
        side=np.array([step.side for step, _ in steps], np.int64),
        flags=np.array([flags for _, flags in steps], np.int64),
        bulk=np.array([step.bulk for step, _ in steps], np.int64),
        first_patch=np.concatenate([[0], np.cumsum([len(step.patches) for step, _ in steps])]),
        patches=np.array(patches, np.int64).reshape(-1, 3),
        first_step=np.array(first, np.int64),
        steps=np.array(count, np.int64),
        bulk_at=np.array(bulk_at, np.int64),
    )
    return library, names, np.array([*first_script, len(names)], np.int64)


def frames_of(kind: Kind, variant: list[Step]) -> list[tuple[Step, int]]:
    """The packets of one variant with their TCP flags: handshake, script, acknowledgements, teardown."""
    if kind.transport == "udp":
        return [(step, 0) for step in variant]
    empty = (Step(0, b""), Step(1, b""))
    if not variant:
        return [(empty[0], SYN), (empty[1], RST | ACK)][: 2 if kind.name == "refused" else 1]
    played = [(empty[0], SYN), (empty[1], SYN | ACK), (empty[0], ACK)]
    for step in variant:
        for start in range(0, len(step.data), MSS):
            played.append((step.cut(start, MSS), PSH | ACK))
        if step.acknowledged:
            played.append((empty[1 - step.side], ACK))
    return [*played, (empty[0], FIN | ACK), (empty[1], FIN | ACK), (empty[0], ACK)]


@dataclass
class Cast:
    """One row per conversation; start: µs; announced: the port it is about; extra: repetitions of its bulk steps."""

    script: Ints
    client: Ints
    server: Ints
    client_port: Ints
    server_port: Ints
    start: Ints
    announced: Ints
    extra: Ints


SERVERS = 16
"""Servers of each kind: many for one organisation, whose clients go by the thousand."""


def cast(kinds: list[Kind], first_script: Ints, options: argparse.Namespace, rng: np.random.Generator) -> Cast:
    """Who talks to whom, when. Kinds with `follows` come in pairs: the mapper, then the port it handed out."""
    number = options.conversations
    kind = np.sort(rng.choice(len(kinds), number, p=shares(kinds, options.packets / number)))
    mapper = next(index for index, item in enumerate(kinds) if item.name == "epm")
    rpc = next(index for index, item in enumerate(kinds) if item.name == "rpc")
    pairs = min(int((kind == mapper).sum()), int((kind == rpc).sum()))
    kind[np.flatnonzero(kind == rpc)[pairs:]] = mapper
    askers, callers = np.flatnonzero(kind == mapper)[:pairs], np.flatnonzero(kind == rpc)[:pairs]
    variants = np.diff(first_script)
    variant = rng.integers(0, 1 << 30, number) % variants[kind]
    variant[callers] = variant[askers] = variant[askers] % min(variants[mapper], variants[rpc])
    client = 0x0A000000 + 0x10000 + rng.integers(0, max(256, number // 40), number)
    farm = rng.integers(0, SERVERS, number)
    server = 0x0A000000 + np.array([item.server for item in kinds])[kind] * 256 + 1 + farm
    port = np.array([item.port for item in kinds])[kind]
    announced = 20_000 + ((farm * 131 + variant * 17) % 40_000)
    start = (np.sort(rng.random(number)) ** 0.9 * options.duration * 1e6).astype(np.int64)
    start = start[rng.permutation(number)]
    for column in (client, server, announced):
        column[callers] = column[askers]
    start[callers] = start[askers] + 60_000 + rng.integers(0, 90_000, pairs)
    port = np.where(kind == rpc, announced, port)
    ports = 1024 + rng.permutation(number) % 64_000
    while len(twins := repeated(client, ports, server, port)):
        ports[twins] = rng.integers(1024, 65_024, len(twins))
    return Cast(
        script=first_script[kind] + variant, client=client, server=server, client_port=ports,
        server_port=port, start=start, announced=announced, extra=np.zeros(number, np.int64),
    )  # fmt: skip


def shares(kinds: list[Kind], packets_each: float) -> NDArray[np.float64]:
    """Probability of each kind; if there are few packets each, kinds of one or two packets become more common."""
    share = np.array([kind.share for kind in kinds])
    length = np.array([np.mean([len(frames_of(kind, variant)) for variant in kind.variants]) for kind in kinds])
    share /= share.sum()
    light = length <= 2
    means = [float((share * length)[mask].sum() / share[mask].sum()) for mask in (light, ~light)]
    wanted = (packets_each - means[1]) / (means[0] - means[1])
    if wanted > share[light].sum():
        share[light] *= wanted / share[light].sum()
        share[~light] *= (1 - wanted) / share[~light].sum()
    return share / share.sum()


def repeated(*columns: Ints) -> Ints:
    """Rows whose values all stood in an earlier row."""
    order = np.lexsort(columns)
    same = np.all([column[order][1:] == column[order][:-1] for column in columns], axis=0)
    return order[1:][same]


def spread_bulk(people: Cast, library: Library, packets: int, rng: np.random.Generator) -> None:
    """Give the packets that openings leave over to conversations with bulk, few of them very large."""
    spare = packets - int(library.steps[people.script].sum())
    able = np.flatnonzero(library.bulk_at[people.script] >= 0)
    if spare <= 0 or not len(able):
        return
    weight = rng.pareto(1.3, len(able)) + 0.05
    people.extra[able] = np.floor(np.minimum(weight / weight.sum(), 0.002) * spare)
    rest = spare - int(people.extra.sum())
    np.add.at(people.extra, able[rng.integers(0, len(able), max(rest, 0))], 1)


@dataclass
class Packets:
    """One row per packet, conversation by conversation."""

    conversation: Ints
    step: Ints
    payload: Ints
    time: Ints
    seq: Ints
    ack: Ints


def lay_out(people: Cast, library: Library, options: argparse.Namespace, rng: np.random.Generator) -> Packets:
    """Every packet of every conversation, with times and sequence numbers."""
    counts = library.steps[people.script] + people.extra
    total = int(counts.sum())
    conversation = np.repeat(np.arange(len(counts)), counts)
    begin = np.concatenate([[0], np.cumsum(counts)[:-1]])
    place = np.arange(total) - begin[conversation]
    step = steps_of(people, library, conversation, place)
    payload = library.size[step].copy()
    bulk = library.bulk[step] > 0
    large = rng.random(total) < options.large
    drawn = np.where(large, MSS, np.minimum(24 + rng.exponential(options.small, total).astype(np.int64), MSS))
    payload[bulk] = np.maximum(drawn, payload + 8)[bulk]
    gaps = rng.exponential(options.gap * 1e3, total).astype(np.int64) + 40
    time = segment_cumsum(gaps, begin, conversation) + people.start[conversation] + EPOCH_US
    flags = library.flags[step]
    advance = payload + ((flags & (SYN | FIN)) > 0)
    from_client = library.side[step] == 0
    sent = [segment_cumsum(np.where(mask, advance, 0), begin, conversation) for mask in (from_client, ~from_client)]
    isn = [rng.integers(0, 1 << 32, len(counts))[conversation] for _ in range(2)]
    seq = np.where(from_client, isn[0] + sent[0] - advance, isn[1] + sent[1] - advance) & 0xFFFFFFFF
    ack = np.where(from_client, isn[1] + sent[1], isn[0] + sent[0]) & 0xFFFFFFFF
    return Packets(conversation, step, payload, time, seq, np.where(flags == SYN, 0, ack))


def steps_of(people: Cast, library: Library, conversation: Ints, place: Ints) -> Ints:
    """The script step of each packet: extra packets repeat the script's bulk steps, three to the client of four."""
    script = people.script[conversation]
    at, extra = library.bulk_at[script], people.extra[conversation]
    inside = (at >= 0) & (place >= at) & (place < at + extra)
    moved = np.where((at >= 0) & (place >= at + extra), place - extra, place)
    return library.first_step[script] + np.where(inside, at + (place % 4 != 0), moved)


def segment_cumsum(values: Ints, begin: Ints, segment: Ints) -> Ints:
    """Running sums that start afresh in each conversation."""
    running = np.cumsum(values)
    return running - (running[begin] - values[begin])[segment]


@numba.njit(cache=True)
def fold(value):  # type: ignore[no-untyped-def]
    """Internet checksum of a sum of 16-bit words (RFC 1071)."""
    value = (value & 0xFFFF) + (value >> 16)
    value = (value & 0xFFFF) + (value >> 16)
    value = (value & 0xFFFF) + (value >> 16)
    return 0xFFFF - value


@numba.njit(cache=True)
def put(out, at, value, size):  # type: ignore[no-untyped-def]
    """Write a big-endian number."""
    for index in range(size):
        out[at + index] = (value >> (8 * (size - 1 - index))) & 255


@numba.njit(cache=True)
def put_little(out, at, value, size):  # type: ignore[no-untyped-def]
    """Write a little-endian number."""
    for index in range(size):
        out[at + index] = (value >> (8 * index)) & 255


@numba.njit(cache=True)
def put_digits(out, at, value, size):  # type: ignore[no-untyped-def]
    """Write a decimal number in ASCII."""
    for index in range(size):
        out[at + size - 1 - index] = 48 + value % 10
        value //= 10


@numba.njit(cache=True)
def checksum(out, at, size, value):  # type: ignore[no-untyped-def]
    """Sum of 16-bit words, folded and inverted."""
    for index in range(at, at + size - 1, 2):
        value += (out[index] << 8) + out[index + 1]
    if size & 1:
        value += out[at + size - 1] << 8
    return fold(value)


@numba.njit(cache=True)
def write_frames(
    out,
    order,
    conversation,
    step,
    payload,
    time,
    seq,
    ack,
    flags,
    side,
    start,
    size,
    bulk,
    first_patch,
    patches,
    content,
    pool,
    client,
    server,
    client_port,
    server_port,
    announced,
):  # type: ignore[no-untyped-def]
    """The frames of the packets in `order`, record headers included; returns the bytes written."""
    position = 0
    for row in range(len(order)):
        packet = order[row]
        talk, which = conversation[packet], step[packet]
        size_of_data, bits = payload[packet], flags[which]
        header = UDP_HEADER if bits == 0 else TCP_HEADER + (SYN_OPTIONS if bits & SYN else 0)
        captured = ETHERNET + IPV4 + header + size_of_data
        put_little(out, position, time[packet] // 1_000_000, 4)
        put_little(out, position + 4, time[packet] % 1_000_000, 4)
        put_little(out, position + 8, captured, 4)
        put_little(out, position + 12, captured, 4)
        frame = position + 16
        from_client = side[which] == 0
        source = client[talk] if from_client else server[talk]
        target = server[talk] if from_client else client[talk]
        put(out, frame, 0x020000000000 | target, 6)
        put(out, frame + 6, 0x020000000000 | source, 6)
        put(out, frame + 12, 0x0800, 2)
        ip = frame + ETHERNET
        put(out, ip, 0x4500, 2)
        put(out, ip + 2, captured - ETHERNET, 2)
        put(out, ip + 4, packet & 0xFFFF, 2)
        put(out, ip + 6, 0x4000, 2)
        out[ip + 8] = 128 if from_client else 127
        out[ip + 9] = 17 if bits == 0 else 6
        put(out, ip + 10, 0, 2)
        put(out, ip + 12, source, 4)
        put(out, ip + 16, target, 4)
        put(out, ip + 10, checksum(out, ip, IPV4, 0), 2)
        layer = ip + IPV4
        put(out, layer, client_port[talk] if from_client else server_port[talk], 2)
        put(out, layer + 2, server_port[talk] if from_client else client_port[talk], 2)
        if bits == 0:
            put(out, layer + 4, header + size_of_data, 2)
            put(out, layer + 6, 0, 2)
        else:
            put(out, layer + 4, seq[packet], 4)
            put(out, layer + 8, ack[packet] if bits & ACK else 0, 4)
            out[layer + 12] = header // 4 << 4
            out[layer + 13] = bits
            put(out, layer + 14, 64240 if bits & SYN else 1026, 2)
            put(out, layer + 16, 0, 4)
            for index in range(header - TCP_HEADER):
                out[layer + TCP_HEADER + index] = pool[index]
        data = layer + header
        known = min(size[which], size_of_data)
        out[data : data + known] = content[start[which] : start[which] + known]
        rest = size_of_data - known
        if rest > 0:
            origin = SYN_OPTIONS + (packet * 7919) % (len(pool) - 2048)
            out[data + known : data + size_of_data] = pool[origin : origin + rest]
            if bulk[which] == 1:
                put(out, data + 3, size_of_data - 5, 2)
            elif bulk[which] == 2:
                put_little(out, data + 8, size_of_data, 2)
        for index in range(first_patch[which], first_patch[which + 1]):
            at, long, what = data + patches[index, 0], patches[index, 1], patches[index, 2]
            if what == PORT:
                put(out, at, announced[talk], 2)
            elif what == ADDRESS:
                put(out, at, server[talk], 4)
            elif what == PORT_TEXT:
                put_digits(out, at, announced[talk], long)
            elif what == IDENTITY:
                put(out, at, talk & 0xFFFF, 2)
            else:
                origin = SYN_OPTIONS + (talk * 104_729 + index * 613) % (len(pool) - 2048)
                out[at : at + long] = pool[origin : origin + long]
        total = (source >> 16) + (source & 0xFFFF) + (target >> 16) + (target & 0xFFFF)
        total += (17 if bits == 0 else 6) + header + size_of_data
        put(out, layer + (6 if bits == 0 else 16), checksum(out, layer, header + size_of_data, total), 2)
        position = frame + captured
    return position


def write(
    path: Path, order: Ints, people: Cast, packets: Packets, library: Library, pool: NDArray[np.uint8]
) -> int:
    """Write a capture of the packets in `order`; returns its size."""
    header = np.where(library.flags == 0, UDP_HEADER, TCP_HEADER + SYN_OPTIONS * ((library.flags & SYN) > 0))
    sizes = (16 + ETHERNET + IPV4 + header[packets.step] + packets.payload)[order]
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(ends, np.arange(0, int(ends[-1]) + BLOCK, BLOCK))
    out = np.zeros(BLOCK + (1 << 17), np.uint8)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for low, high in pairwise(cuts):
            written = write_frames(
                out,
                order[low:high],
                packets.conversation,
                packets.step,
                packets.payload,
                packets.time,
                packets.seq,
                packets.ack,
                library.flags,
                library.side,
                library.start,
                library.size,
                library.bulk,
                library.first_patch,
                library.patches,
                library.content,
                pool,
                people.client,
                people.server,
                people.client_port,
                people.server_port,
                people.announced,
            )
            file.write(out[:written].data)
        return file.tell()


def truth(people: Cast, packets: Packets, names: list[str], size: int) -> dict[str, Any]:
    """What a reader of the capture should find, kind by kind."""
    found = Counter(names[script] for script in people.script.tolist())
    return {
        "bytes": size,
        "packets": len(packets.time),
        "conversations": len(people.script),
        "kinds": dict(sorted(found.items())),
    }


USUAL = {"packets": 2_000_000, "conversations": 100_000, "mean_size": 470.0}
FLOW_HEAVY = {"packets": 4_000_000, "conversations": 1_000_000, "mean_size": 150.0}
"""Names asked, tickets taken and ports knocked at: what a resolver or a scan makes of a network."""


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--flow-heavy", action="store_true", help="1 million conversations in 4 million packets")
    parser.add_argument("--packets", type=int, help="2 million, if nothing else is said")
    parser.add_argument("--conversations", type=int, help="100 thousand, if nothing else is said")
    parser.add_argument("--mean-size", type=float, help="bytes of a packet on the wire, on average (470)")
    parser.add_argument("--duration", type=float, default=900.0, help="seconds in which conversations begin")
    parser.add_argument("--gap", type=float, default=15.0, help="milliseconds between packets of a conversation")
    parser.add_argument("--taps", type=int, default=1, help="captures that packets go to in turns")
    parser.add_argument("--seed", type=int, default=1)
    parser.set_defaults(small=150.0, large=0.3)
    options = parser.parse_args(argv)
    for name, value in (FLOW_HEAVY if options.flow_heavy else USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def aim(options: argparse.Namespace, people: Cast, library: Library) -> None:
    """Choose the share of full segments so that the mean size comes out as asked for."""
    scripted = np.add.reduceat(library.size, library.first_step)[people.script].sum()
    total = int(library.steps[people.script].sum() + people.extra.sum())
    wanted = (options.mean_size - ETHERNET - IPV4 - TCP_HEADER) * total - int(scripted)
    bulks = np.add.reduceat(library.bulk > 0, library.first_step, dtype=np.int64)[people.script]
    each = wanted / max(int((people.extra + bulks).sum()), 1)
    options.large = min(max((each - options.small - 24) / (MSS - options.small - 24), 0.0), 1.0)


def main(argv: list[str]) -> None:
    """Make the capture and its truth file."""
    options = arguments(argv)
    rng = np.random.default_rng(options.seed)
    library, names, first_script = flatten(SCRIPTS)
    people = cast(SCRIPTS, first_script, options, rng)
    spread_bulk(people, library, options.packets, rng)
    aim(options, people, library)
    packets = lay_out(people, library, options, rng)
    pool = np.frombuffer(OPTIONS + rng.bytes(POOL), np.uint8)
    order, taps, path = np.argsort(packets.time, kind="stable"), options.taps, options.output
    paths = [path.with_stem(f"{path.stem}-{number + 1}") for number in range(taps)] if taps > 1 else [path]
    size = sum(write(each, order[tap::taps], people, packets, library, pool) for tap, each in enumerate(paths))
    facts = truth(people, packets, names, size)
    options.output.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
    print(
        f"{options.output}: {size / 1e9:.2f} GB, {facts['packets']:,} packets, {facts['conversations']:,} conversations"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
