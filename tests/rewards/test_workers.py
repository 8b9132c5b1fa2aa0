"""The pool, with real processes: nothing here is replaced by a stand-in."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from corollary.errors import DataError
from corollary.rewards.calling import Call, Values
from corollary.rewards.workers import Pool

FUNCTIONS = """
import asyncio, ctypes, os, re, signal, subprocess, sys, threading, time

def lengths(completions, **columns):
    return [float(len(text)) for text in completions]

def pid(completions, **columns):
    return [float(os.getpid())] * len(completions)

def torch_is_loaded(completions, **columns):
    return [float("torch" in sys.modules)] * len(completions)

def sleep(**columns):
    time.sleep(3600)

def spin(**columns):
    while True: pass

def backtrack(**columns):
    re.match(r"(a+)+$", "a" * 60 + "b")  # in C, the GIL held

def deadlock(**columns):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

async def sleep_async(**columns):
    await asyncio.sleep(3600)

def deaf(**columns):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(3600)

def leaves_a_child(path, **columns):
    child = subprocess.Popen(["sleep", "3600"])
    open(path[0], "w").write(str(child.pid))
    time.sleep(3600)

def exit_at_once(**columns):
    os._exit(0)

def exit_loudly(**columns):
    print("no such model: bert")
    sys.stdout.flush()
    os._exit(3)

def crash(**columns):
    ctypes.string_at(0)

def die_later(completions, **columns):
    threading.Timer(0.05, os._exit, [1]).start()
    return [1.0] * len(completions)

def flood(completions, **columns):
    for _ in range(1600):
        print("x" * 65536)
    sys.stderr.write("the end")
    return [1.0] * len(completions)

def mute(completions, **columns):
    os.close(1), os.close(2)
    time.sleep(0.2)
    return [1.0] * len(completions)

def vandal(completions, **columns):
    os.chdir("/")
    os.environ.clear()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return [1.0] * len(completions)
"""
HANGS = ["sleep", "spin", "backtrack", "deadlock", "sleep_async", "deaf"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture
def pool():
    with Pool(2) as pool:
        yield pool


def call(file, name, texts=("a", "bb"), seconds=10.0, **columns):
    return Call(f"{file}:{name}", {"completions": list(texts), **columns}, len(texts), seconds)


def line_of(name):
    """The number of the last line of a function in FUNCTIONS, where it hangs."""
    body = FUNCTIONS.partition(f"def {name}(")
    return body[0].count("\n") + 1 + body[2].split("\n\n")[0].rstrip().count("\n")


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(what, seconds=5.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_answers_come_in_the_order_of_the_calls_whatever_the_number_of_workers(file):
    calls = [call(file, "lengths", ["x" * i, "y" * (2 * i)]) for i in range(50)]
    for size in (1, 2, 3):
        with Pool(size) as pool:
            assert pool.run(calls) == [Values((float(i), 2.0 * i)) for i in range(50)]


def test_a_worker_serves_many_calls_and_loads_no_torch(file, pool):
    first, second = pool.run([call(file, "pid")]), pool.run([call(file, "pid")])
    assert first == second
    assert first[0].values[0] != os.getpid()
    assert pool.run([call(file, "torch_is_loaded")])[0].values[0] == 0.0


@pytest.mark.parametrize("name", HANGS)
def test_a_call_that_hangs_is_killed_at_its_deadline_and_the_pool_is_whole_again(file, pool, name):
    started = time.monotonic()
    fault, _ = pool.run([call(file, name, seconds=0.5), call(file, "lengths")])
    assert (fault.kind, fault.what) == ("hung", "no answer within 0.5 s")
    assert 0.5 <= time.monotonic() - started < 2.5
    if name not in ("deaf", "sleep_async"):
        assert fault.where == f"{file}:{line_of(name)}"
    assert len(pool.workers) == 2
    assert all(worker.alive for worker in pool.workers)
    assert pool.run([call(file, "lengths")] * 20) == [Values((1.0, 2.0))] * 20


def test_several_hangs_at_once_do_not_hold_each_other_up(file, pool):
    started = time.monotonic()
    outcomes = pool.run([call(file, "sleep", seconds=0.5)] * 4)
    assert [outcome.kind for outcome in outcomes] == ["hung"] * 4
    assert time.monotonic() - started < 3


def test_what_a_killed_call_had_started_is_killed_too(file, pool, tmp_path):
    note = tmp_path / "pid"
    pool.run([call(file, "leaves_a_child", seconds=0.5, path=[str(note)] * 2)])
    wait_until(lambda: gone(int(note.read_text())))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("exit_at_once", "its process ended with exit status 0"),
        ("exit_loudly", "its process ended with exit status 3 after printing: no such model: bert"),
        ("crash", "its process was killed by SIGSEGV"),
    ],
)
def test_a_call_that_ends_its_process_is_a_fault_of_its_own(file, pool, name, what):
    fault, fine = pool.run([call(file, name), call(file, "lengths")])
    assert (fault.kind, fault.what) == ("died", what)
    assert fine == Values((1.0, 2.0))
    assert pool.run([call(file, "lengths")] * 3) == [Values((1.0, 2.0))] * 3


def test_a_worker_that_dies_while_idle_is_replaced_and_nobody_is_blamed(file):
    with Pool(1) as pool:
        assert pool.run([call(file, "die_later")]) == [Values((1.0, 1.0))]
        wait_until(lambda: not pool.workers[0].alive)
        assert pool.run([call(file, "lengths")]) == [Values((1.0, 2.0))]
        os.kill(pool.workers[0].process.pid, signal.SIGKILL)  # still thought alive when the call is written
        assert pool.run([call(file, "lengths")]) == [Values((1.0, 2.0))]


def test_a_fresh_worker_that_dies_before_its_first_call_is_replaced_too(file):
    with Pool(1) as pool:
        pool.run([call(file, "crash")])
        os.kill(pool.workers[0].process.pid, signal.SIGKILL)
        wait_until(lambda: not pool.workers[0].alive)
        assert pool.run([call(file, "lengths")]) == [Values((1.0, 2.0))]


def test_what_a_function_prints_is_kept_back_and_capped(file, pool, capfd):
    assert pool.run([call(file, "flood")]) == [Values((1.0, 1.0))]
    assert pool.workers[0].printed.endswith(b"the end")
    assert len(pool.workers[0].printed) <= 4096
    assert pool.run([call(file, "mute")]) == [Values((1.0, 1.0))]
    assert capfd.readouterr() == ("", "")


def test_a_function_that_changes_its_process_changes_no_other(file, pool):
    before = os.getcwd(), dict(os.environ), signal.getsignal(signal.SIGTERM)
    assert pool.run([call(file, "vandal")] * 2) == [Values((1.0, 1.0))] * 2
    assert (os.getcwd(), dict(os.environ), signal.getsignal(signal.SIGTERM)) == before
    assert pool.run([call(file, "lengths")] * 2) == [Values((1.0, 2.0))] * 2


@pytest.mark.parametrize(
    ("source", "what", "line"),
    [
        ("def f(:\n", "SyntaxError", 1),
        ("import os\nimport no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'", 2),
        ("x = 1\nraise SystemExit('no key')\n", "SystemExit: no key", 2),
        ("f = 3\n", "TypeError: f is a int, not a function", None),
        ("", "AttributeError: there is no function 'f' in it", None),
        ("import os\nos._exit(4)\n", "its process ended with exit status 4", None),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_its_line(tmp_path, pool, source, what, line):
    path = tmp_path / "broken.py"
    path.write_text(source)
    (fault,) = pool.run([call(path, "f")])
    assert fault.kind == "unloadable"
    assert fault.what.startswith(what)
    assert fault.where == (f"{path}:{line}" if line else str(path))


def test_a_file_named_like_a_module_shadows_nothing_and_sees_its_neighbours(tmp_path, pool):
    (tmp_path / "statistics.py").write_text("import colorsys, neighbour\ndef f(completions): return [neighbour.ONE]\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('shadowed')\n")
    (tmp_path / "neighbour.py").write_text("ONE = 1.0\n")
    assert pool.run([call(tmp_path / "statistics.py", "f", ["a"])]) == [Values((1.0,))]


def test_a_column_that_cannot_be_sent_is_named(file, pool):
    with pytest.raises(DataError, match="column 'image' cannot be sent"):
        pool.run([call(file, "lengths", image=[lambda: 0] * 2)])
    assert pool.run([call(file, "lengths")]) == [Values((1.0, 2.0))]


def test_a_large_batch_passes_both_ways(file, pool):
    texts = ["x" * 1000] * 20_000
    assert pool.run([call(file, "lengths", texts)]) == [Values((1000.0,) * 20_000)]


def test_an_interrupt_leaves_no_answer_behind_for_the_next_call(file):
    with Pool(1) as pool:
        pool.run([call(file, "lengths")])
        interrupt = [
            sys.executable,
            "-c",
            f"import os, signal, time; time.sleep(0.3); os.kill({os.getpid()}, signal.SIGINT)",
        ]
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background job starts with it ignored
        with subprocess.Popen(interrupt), pytest.raises(KeyboardInterrupt):
            pool.run([call(file, "sleep", seconds=30)])
        signal.signal(signal.SIGINT, before)
        started = time.monotonic()
        assert pool.run([call(file, "lengths")] * 3) == [Values((1.0, 2.0))] * 3
        assert time.monotonic() - started < 10


def test_closing_ends_every_process(file):
    pool = Pool(2)
    pool.run([call(file, "lengths")] * 2)
    pids = [worker.process.pid for worker in pool.workers]
    pool.close()
    pool.close()
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize(
    ("name", "threaded"), [("lengths", False), ("sleep", False), ("backtrack", False), ("sleep", True)]
)
def test_workers_die_with_a_parent_that_is_killed_idle_or_busy(file, name, threaded):
    script = textwrap.dedent(f"""
        import json, threading, time
        from corollary.rewards.calling import Call
        from corollary.rewards.workers import Pool
        call = lambda name: Call({str(file)!r} + ":" + name, {{"completions": ["a"]}}, 1, 3600.0)
        def run():
            pool = Pool(1)
            pool.run([call("lengths")])
            print(json.dumps(pool.workers[0].process.pid), flush=True)
            pool.run([call({name!r})])
            time.sleep(3600)
        threading.Thread(target=run).start() if {threaded} else run()
    """)
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=path) as parent:
        worker = json.loads(parent.stdout.readline())
        time.sleep(0.3)
        assert not gone(worker)
        parent.kill()
        wait_until(lambda: gone(worker), seconds=2)


def test_a_pool_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least 1 worker"):
        Pool(0)
