"""Another process that reads packets: its items, its end, its errors and its death; and that no result depends on it.

What forks runs in a fresh interpreter with a single thread: whoever runs tests may have others.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from classifier import memory
from classifier.beside import Ahead, let_go, soon
from classifier.errors import UsageError

ROOT = Path(__file__).parents[1]
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")

BEGIN = """
import os, sys, time
from classifier import memory
from classifier.beside import Beside, can_fork
from classifier.errors import ExflowError, UsageError
assert can_fork()
"""


def said(code: str, *arguments: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_let_go_is_given_up_by_another_thread() -> None:
    gone: list[str] = []

    class Large:
        def __del__(self) -> None:
            gone.append(threading.current_thread().name)

    things = [Large()]
    let_go(things)
    until = time.monotonic() + 60
    while not gone and time.monotonic() < until:
        time.sleep(0.001)
    assert (gone, things) == (["exflow-freeing"], [])


@pytest.mark.parametrize("jobs", [1, 2])
def test_work_done_soon_has_its_outcome_or_its_error(jobs: int) -> None:
    threads: list[str] = []

    def work() -> int:
        threads.append(threading.current_thread().name)
        return 7

    outcome = soon(work, jobs)
    assert outcome() == outcome() == 7
    assert (threads[0] == "MainThread") == (jobs == 1)

    def fail() -> int:
        raise UsageError("no such column")

    with pytest.raises(UsageError, match="no such column"):
        soon(fail, jobs)()


@ONLY_LINUX
def test_items_come_in_order_with_what_the_generator_returns() -> None:
    code = """
shared = memory.zeros(3, "i8")
def items():
    for each in range(3):
        shared[each] = os.getpid()
        yield "x" * each * 100_000
    return "whole"
def all_of(made):
    outcome = yield from made
    print(outcome)
made = Beside(items, lambda: None)
print([len(item) for item in all_of(made)])
print(len(set(shared.tolist())), os.getpid() in shared.tolist())
made.close()
"""
    assert said(code) == ["whole", "[0, 100000, 200000]", "1 False"]


@ONLY_LINUX
def test_an_error_over_there_is_raised_here_behind_the_items_before_it() -> None:
    code = """
def items():
    yield 1
    raise UsageError("no such file")
made = Beside(items, lambda: None)
print(next(made))
try:
    next(made)
except UsageError as error:
    print(error)
"""
    assert said(code) == ["1", "no such file"]


@ONLY_LINUX
def test_a_process_that_dies_is_told_and_one_that_is_not_asked_is_ended() -> None:
    code = """
def dies():
    yield 1
    os.kill(os.getpid(), 9)
    yield 2
made = Beside(dies, lambda: None)
next(made)
try:
    next(made)
except ExflowError as error:
    print("lost" in str(error))
made.close()
def waits():
    yield os.getpid()
    time.sleep(1000)
waited = []
made = Beside(waits, lambda: waited.append(1))
other = next(made)
made.close()
print(os.path.exists(f"/proc/{other}"))
"""
    assert said(code) == ["True", "False"]


@ONLY_LINUX
def test_whoever_waits_may_do_something_meanwhile() -> None:
    code = """
def slow():
    time.sleep(0.7)
    yield 1
waited = []
print(next(Beside(slow, lambda: waited.append(1))), len(waited) >= 2)
"""
    assert said(code) == ["1 True"]


@ONLY_LINUX
def test_work_is_done_meanwhile_or_when_its_outcome_is_asked() -> None:
    code = """
from classifier.beside import meanwhile
def fails():
    raise UsageError("it can't be done")
def outcome(work, jobs):
    with meanwhile(work, jobs) as told:
        return told()
print([outcome(os.getpid, jobs) == os.getpid() for jobs in (1, 2)])
print(outcome(lambda: [1] * 300_000, 2) == [1] * 300_000)
for jobs in (1, 2):
    try:
        outcome(fails, jobs)
    except UsageError as error:
        print(error)
"""
    assert said(code) == ["[True, False]", "True", *2 * ["it can't be done"]]


@ONLY_LINUX
def test_nothing_stays_of_what_is_left_before_it_has_ended() -> None:
    code = """
from classifier.beside import meanwhile
before = os.listdir("/proc/self/fd")
try:
    with meanwhile(lambda: time.sleep(1000), 2):
        raise UsageError("meanwhile")
except UsageError as error:
    print(error)
print(os.listdir("/proc/self/fd") == before)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("alone")
"""
    assert said(code) == ["meanwhile", "True", "alone"]


@ONLY_LINUX
def test_who_has_told_all_is_not_waited_for_and_yet_does_not_stay() -> None:
    code = """
from classifier.beside import meanwhile
def state(child):
    try:
        with open(f"/proc/{child}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:  # it had ended before anybody asked
        return "Z"
with meanwhile(os.getpid, 2) as told:
    child = told()
until = time.monotonic() + 60
while state(child) != "Z" and time.monotonic() < until:
    time.sleep(0.01)
print(state(child))
with meanwhile(os.getpid, 2) as told:
    print(os.path.exists(f"/proc/{child}"))
"""
    assert said(code) == ["Z", "False"]


@ONLY_LINUX
def test_all_is_done_here_where_no_process_can_be_had() -> None:
    code = """
from classifier.beside import forked, meanwhile
def refused():
    raise BlockingIOError("too many processes")
os.fork = refused
before = os.listdir("/proc/self/fd")
print(forked(iter, print, 2))
with meanwhile(os.getpid, 2) as told:
    print(told() == os.getpid())
print(os.listdir("/proc/self/fd") == before)
"""
    assert said(code) == ["None", "True", "True"]


@ONLY_LINUX
def test_it_never_goes_on_as_its_parent() -> None:
    code = """
def items():
    yield lambda: "what no pickle can hold"
made = Beside(items, lambda: None)
try:
    next(made)
except Exception as error:
    print("lambda" in str(error) or "lost" in str(error))
made.close()
def breaks():
    raise SystemExit(3)
    yield
made = Beside(breaks, lambda: None)
try:
    next(made)
except ExflowError:
    print("lost")
made.close()
"""
    assert said(code) == ["True", "lost"]


@ONLY_LINUX
def test_it_works_among_many_files_and_where_children_are_not_waited_for() -> None:
    code = """
import resource, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
def items():
    yield os.getpid()
made = Beside(items, lambda: None)
other = next(made)
print(other != os.getpid())
made.close()
"""
    assert said(code) == ["True"]


@ONLY_LINUX
def test_it_does_not_outlive_the_process_that_asked() -> None:
    code = """
def waits():
    yield os.getpid()
    time.sleep(1000)
print(next(Beside(waits, lambda: None)), flush=True)
os.kill(os.getpid(), 9)
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code], stdout=subprocess.PIPE, env=environment, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    other = Path(f"/proc/{int(done.stdout)}")
    for _ in range(100):
        if not other.exists():
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


@ONLY_LINUX
def test_nobody_is_forked_where_others_are_at_work() -> None:
    code = """
import threading
stop = threading.Event()
threading.Thread(target=stop.wait).start()
print(can_fork())
stop.set()
"""
    assert said(code) == ["False"]


@ONLY_LINUX
def test_two_processes_find_what_one_finds() -> None:
    code = """
import io
from pathlib import Path
from classifier.assembly import Assembling, Patience
from classifier.conclusion import Knowledge, conclude, read
from classifier.crew import Crew
from classifier.records import write_jsonl
from classifier.rulebook import load
from classifier.sources import CaptureSet
rulebook = load()
def lines(path, jobs):
    while not can_fork():  # a thread that was joined takes a moment to be gone
        time.sleep(0.01)
    with Assembling(CaptureSet.of([path]), jobs, patience=Patience(0, 0, 10**14)) as assembling:
        assert type(assembling._leaving).__name__ == ("Beside" if jobs > 1 else "generator")
        reading = read(assembling, rulebook, Crew())
    result = conclude(
        assembling.captures, assembling.assembly, Knowledge(rulebook), 1, reading
    )
    out = io.BytesIO()
    write_jsonl(result.table, out)
    return out.getvalue(), result.counters, [str(each) for each in result.damages]
for path in sorted(Path(sys.argv[1]).glob("*.pcap*"))[::3]:
    one, two = lines(path, 1), lines(path, 2)
    if one[1]["packets"] == 0 or one != two:
        print(path)
"""
    assert said(code, str(ROOT / "captures")) == []


@ONLY_LINUX
def test_a_whole_run_finds_with_two_processes_what_it_finds_with_one() -> None:
    code = """
import io
from pathlib import Path
from classifier.pipeline import Settings, run
from classifier.records import write_jsonl
forks, fork = [], os.fork
os.fork = lambda: forks.append(1) or fork()
def told(path, inventory, jobs):
    while not can_fork():
        time.sleep(0.01)
    result = run([path], Settings(jobs=jobs, inventory=inventory))
    texts = []
    for table in (result.table, result.finding_table, result.host_table, result.endpoint_table):
        out = io.BytesIO()
        write_jsonl(table, out)
        texts.append(out.getvalue())
    return texts, result.counters, result.verdicts, list(map(str, result.damages))
found = 0
for inventory in sorted(Path(sys.argv[1]).glob("*.inventory.toml"))[::2]:
    for path in inventory.parent.glob(inventory.name.removesuffix(".inventory.toml") + ".pcap*"):
        one, two = (told(path, inventory, jobs) for jobs in (1, 2))
        found += len(one[0][1])
        if one != two:
            print(path)
print(found > 0, len(forks) > 10)
"""
    assert said(code, str(ROOT / "captures")) == ["True True"]


@ONLY_LINUX
def test_a_table_may_outgrow_its_first_rows() -> None:
    code = """
from classifier import conversations
conversations.FIRST_ROWS = 2
from pathlib import Path
from classifier.assembly import assemble
from classifier.conversations import ConversationTable
from classifier.sources import CaptureSet
path = max(Path(sys.argv[1]).glob("*.pcap"), key=lambda each: each.stat().st_size)
one, two = (assemble(CaptureSet.of([path]), jobs).table for jobs in (1, 2))
print(one.count == two.count > 8, (one.rows[: one.count] == two.rows[: two.count]).all())
print((one.store.flows[: 2 * one.count] == two.store.flows[: 2 * two.count]).all())
"""
    assert said(code, str(ROOT / "captures")) == ["True True", "True"]


@ONLY_LINUX
def test_arrays_are_shared_where_files_may_not_be_large() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
shared = memory.zeros(1 << 24, "i8")
def items():
    shared[-1] = 7
    yield 1
next(Beside(items, lambda: None))
print(shared[-1], len(memory.resized(shared[:5], 9)), memory.resized(shared[:5], 9).base is shared[:5].base)
print(memory.resized(shared[:3], 1 << 25).shape)
"""
    assert said(code) == ["7 9 True", f"({1 << 25},)"]


@ONLY_LINUX
def test_nothing_of_a_reading_outlives_it() -> None:
    code = """
import gc
from classifier.pipeline import Settings, run
def open_files():
    return len(os.listdir("/proc/self/fd"))
before = open_files()
gc.disable()
for jobs in (1, 2):
    assert can_fork()
    result = run([sys.argv[1]], Settings(jobs=jobs))
    print(len(result), open_files() - before)
"""
    assert said(code, str(ROOT / "captures" / "http-doc-ews.pcap")) == ["1 0", "1 0"]


def test_a_thread_ahead_hands_over_all_and_stops_when_it_is_closed() -> None:
    made = []

    def items() -> Generator[int, None, None]:
        for each in range(1000):
            made.append(each)
            yield each

    ahead = Ahead(items())
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()
    time.sleep(0.5)
    assert len(made) <= 8
    assert list(Ahead(iter_of(3))) == [0, 1, 2]


def iter_of(count: int) -> Generator[int, None, None]:
    yield from range(count)


def test_an_error_in_a_thread_is_raised_where_it_is_asked() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise ValueError("x")

    ahead = Ahead(items())
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            next(ahead)


@ONLY_LINUX
def test_memory_that_is_given_back_is_zeros_again() -> None:
    array = memory.zeros(1 << 24, np.uint8)
    array[:] = 7

    def resident() -> int:
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssShmem")]
        return int(line.split()[1])

    before = resident()
    memory.give_back(array, (1 << 20) + 5)
    assert resident() < before - 14 * 1024
    kept = np.flatnonzero(array)
    assert (kept[0], kept[-1] + 1, len(kept)) == (0, (1 << 20) + mmap.PAGESIZE, (1 << 20) + mmap.PAGESIZE)
    array[-1] = 1
    assert array[-1] == 1
