"""Programs that try to be taken for right without computing the answer, and honest ones. The function is x·x + 7.

The forgeries are hostile in earnest: they write files and kill processes. Never judge them in `unsafe_subprocess`.
"""

from __future__ import annotations

TESTS = ["assert f(3) == 16", "assert f(-2) == 11", "assert isinstance(f(0), int) and f(0) == 7 and not f(1) == 9"]
NAME = "f"

FORGERIES = {
    "leaves with success": "import sys\nsys.exit(0)",
    "leaves without a word": "import os\nos._exit(0)",
    "leaves when asked": "import os\ndef f(x): os._exit(0)",
    "prints that all passed": "print('ALL TESTS PASSED')\nprint('[true, true, true]')\ndef f(x): print('1.0')",
    "raises success": "def f(x): raise SystemExit(0)",
    "raises the end of an iteration": "def f(x): raise StopIteration(16)",
    "equals everything": """
class E(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(x): return E(0)""",
    "is an object that equals everything": """
class E:
    def __eq__(self, other): return True
    def __bool__(self): return True
def f(x): return E()""",
    "claims to be an int": """
class E(float):
    __class__ = int
    def __eq__(self, other): return True
def f(x): return E('nan')""",
    "is not a number": "def f(x): return float('nan')",
    "patches comparison": """
import builtins, operator
builtins.isinstance = lambda *a: True
operator.eq = lambda a, b: True
def f(x): return 0""",
    "patches assertions": """
import builtins
class AssertionError(Exception):
    def __new__(cls, *a): return None
builtins.AssertionError = AssertionError
def f(x): return 0""",
    "patches unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef f(x): return 0",
    "reads the tests from its callers": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, str) and 'assert' in value and str(x) in value:
                return int(value.split('==')[1])
        frame = frame.f_back
    return 0""",
    "reads the tests from memory": """
import gc, re
def f(x):
    for thing in gc.get_objects():
        for text in thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple) else ():
            found = type(text) is str and re.search(r'assert f\\(%d\\) == (\\d+)' % x, text)
            if found and 'found' not in text: return int(found[1])
    return 0""",
    "reads the tests from a file": """
import glob, re
def f(x):
    for path in glob.glob('/tmp/**/*.py', recursive=True) + glob.glob('*.py') + ['tests.py']:
        found = re.search(r'assert f\\(%d\\) == (\\d+)' % x, open(path).read())
        if found: return int(found[1])
    return 0""",
    "writes the tests anew": "open('tests.py', 'w').write('')\nopen('/tests.py', 'w').write('')\ndef f(x): return 0",
    "writes a verdict into every descriptor": """
import os
def f(x):
    verdict = b'=t2:l3:TTTs0:'
    for fd in range(3, 64):
        try: os.write(fd, len(verdict).to_bytes(4, 'big') + verdict)
        except OSError: pass
    return 0""",
    "answers before it is asked": """
import os
answer = bytes(8) + b'=i4:0x10'
for fd in range(3, 64):
    try: os.write(fd, (len(answer).to_bytes(4, 'big') + answer) * 5)
    except OSError: pass
def f(x): return 16""",
    "answers a question twice": """
import os, sys
def f(x):
    frame = sys._getframe(1)
    request = frame.f_locals.get('request', b'')
    answer = request[:8] + b'=i4:0x10'
    for fd in range(3, 64):
        try: os.write(fd, (len(answer).to_bytes(4, 'big') + answer) * 2)
        except OSError: pass
    return 16""",
    "waits for the end": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0",
    "exits in a signal": """
import os, signal
signal.signal(signal.SIGALRM, lambda *a: os._exit(0))
signal.setitimer(signal.ITIMER_REAL, 0.01)
def f(x):
    while True: pass""",
    "swaps its own machinery": """
import sys
main = sys.modules['__main__']
main.encode = lambda *a: b'T'
main._called = lambda *a: b'=T'
def f(x): return 0""",
    "says that it is the examiner": """
import sys
main = sys.modules['__main__']
def f(x):
    return (([True] * 3), '')""",
    "runs an examiner of its own": """
import subprocess, sys
subprocess.run([sys.executable, '-c', 'print(1)'])
def f(x): return True""",
    "kills the other process": """
import os, signal
for pid in (os.getppid(), 1):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
def f(x): return 0""",
    "takes too long to be found wrong": "def f(x):\n    while True: pass",
    "guesses one": "def f(x): return 16",
    "changes its answer when it is asked again": "n = 0\ndef f(x):\n    global n\n    n += 1\n    return [16, 11, 7, 7, 9][n - 1]",
    "redefines the test's builtins": "isinstance = lambda *a: True\nint = bool\ndef f(x): return True",
    "a name that does not exist": "def g(x): return x * x + 7",
    "a name that is no function": "f = 16",
    "hands the test's proxy back": "def f(*a, **k): return (a, k)",
}  # fmt: skip

HONEST = {
    "a function": "def f(x):\n    return x * x + 7",
    "a lambda": "f = lambda x: x ** 2 + 7",
    "with another function and an import": "import math\ndef square(x): return int(math.pow(x, 2))\ndef f(x): return square(x) + 7",
    "that prints": "print('thinking')\ndef f(x):\n    print(x)\n    return 7 + sum(abs(x) for _ in range(abs(x)))",
    "with a loop, a default and a test of its own": """
def f(x, y=7):
    total = y
    for _ in range(abs(x)):
        total += abs(x)
    return total
assert f(3) == 16""",
}  # fmt: skip
