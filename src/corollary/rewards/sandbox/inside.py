"""What runs inside the two processes of a judgement; its text is handed to a fresh interpreter, which has nothing else of ours.

The candidate's process runs the model's program and answers calls. The examiner's runs the tests, where the function under
test is a proxy: what it is called with goes out, plain data comes back. So the program never meets a test, and the tests
never meet an object of the program's. Everything is in this one file, and it imports only what every Python has.

A frame is four bytes of length and then that many bytes. A value is a letter and what it needs:

    N T F         None, True, False
    i f z         int (hex), float (hex), complex (two of them)     each with its length before a colon
    s b           text, bytes                                       likewise
    l t S R d     list, tuple, set, frozenset, dict                 with the number of what follows (twice a dict's pairs)
    g I           range (its three ints follow), iterator           an iterator arrives as one over the same items
"""

from __future__ import annotations

import os
import sys

LARGEST = 1 << 20  # bytes of a frame
DEEPEST = 64  # levels of containers
ITEMS = 100_000  # that are taken from an iterator
_SHOWN = 200  # characters of an error's text


class Lost(Exception):
    """The other side is gone, or says what it may not."""


def encode(value: object, depth: int = 0) -> bytes:
    """Plain data as bytes; a subclass counts as what it derives from, and an iterator is used up.

    Raises:
        ValueError: it is not plain data, or too deep.

    >>> encode([True, 10, "é"])
    b'l3:Ti3:0xas2:\\xc3\\xa9'
    """
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    match value:
        case None:
            return b"N"
        case bool():
            return b"T" if value else b"F"
        case int():
            return _sized(b"i", hex(value).encode())
        case float():
            return _sized(b"f", value.hex().encode())
        case complex():
            return _sized(b"z", f"{value.real.hex()},{value.imag.hex()}".encode())
        case str():
            return _sized(b"s", value.encode("utf-8", "surrogatepass"))
        case bytes() | bytearray():
            return _sized(b"b", bytes(value))
        case dict():
            return _items(b"d", [part for pair in value.items() for part in pair], depth)
        case list() | tuple() | set() | frozenset():
            return _items(next(letter for letter, kind in _KINDS if isinstance(value, kind)), [*value], depth)
        case range():
            return b"g" + b"".join(encode(part) for part in (value.start, value.stop, value.step))
    if any("__next__" in vars(kind) for kind in type(value).__mro__):
        return _items(b"I", [item for _, item in zip(range(ITEMS), value)], depth)  # type: ignore  # noqa: B905
    raise ValueError(f"a {type(value).__name__} is not plain data")


_KINDS = ((b"l", list), (b"t", tuple), (b"S", set), (b"R", frozenset))


def _sized(letter: bytes, text: bytes) -> bytes:
    if len(text) > LARGEST:
        raise ValueError("too large")
    return b"%b%d:%b" % (letter, len(text), text)


def _items(letter: bytes, items: list[object], depth: int) -> bytes:
    if len(items) > LARGEST:
        raise ValueError("too large")
    return b"%b%d:" % (letter, len(items)) + b"".join(encode(item, depth + 1) for item in items)


def decode(data: bytes) -> object:
    """The value that the bytes stand for, made of exactly the builtin types.

    Raises:
        ValueError: they stand for none.

    >>> decode(encode((1, {2.5: b"x"}, frozenset({None}), range(3))))
    (1, {2.5: b'x'}, frozenset({None}), range(0, 3))
    """
    try:
        value, end = _decoded(data, 0, 0)
    except (LookupError, TypeError, OverflowError) as error:  # a short text, an unhashable item, a float of many digits
        raise ValueError(f"malformed: {error}") from None
    if end != len(data):
        raise ValueError("malformed: more than one value")
    return value


def _decoded(data: bytes, at: int, depth: int) -> tuple[object, int]:
    """The value at a position, and where it ends."""
    letter = data[at : at + 1]
    if letter in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[letter], at + 1
    if depth > DEEPEST + 1:
        raise ValueError("malformed: too deep")
    if letter == b"g":
        parts, end = _several(data, at + 1, 3, depth)
        return range(*parts), end  # type: ignore[arg-type]  # TypeError if they are no ints
    colon = data.index(b":", at, at + 10)
    count = int(data[at + 1 : colon])
    if letter in _READ:
        end = colon + 1 + count
        if not 0 <= count <= len(data) - colon - 1:
            raise ValueError("malformed: a length")
        return _READ[letter](data[colon + 1 : end]), end
    made = _MADE[letter]
    parts, end = _several(data, colon + 1, count, depth)
    return made(parts), end


def _several(data: bytes, at: int, count: int, depth: int) -> tuple[list[object], int]:
    values = []
    for _ in range(count):
        value, at = _decoded(data, at, depth + 1)
        values.append(value)
    return values, at


def _complex(text: bytes) -> complex:
    real, imaginary = text.decode().split(",")
    return complex(float.fromhex(real), float.fromhex(imaginary))


_READ = {
    b"i": lambda text: int(text, 16),
    b"f": lambda text: float.fromhex(text.decode()),
    b"z": _complex,
    b"s": lambda text: text.decode("utf-8", "surrogatepass"),
    b"b": bytes,
}
_MADE = {
    **dict(_KINDS),
    b"I": iter,
    b"d": lambda parts: dict(zip(parts[::2], parts[1::2], strict=True)),
}


class Channel:
    """Frames over a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, payload: bytes) -> None:
        if len(payload) > LARGEST:
            raise ValueError("too large")
        data = len(payload).to_bytes(4, "big") + payload
        while data:
            data = data[os.write(self._descriptor, data) :]

    def receive(self) -> bytes:
        size = int.from_bytes(self._exactly(4), "big")
        return self._exactly(size)

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count > 0:
            part = os.read(self._descriptor, min(count, 1 << 16))
            if not part:
                raise Lost("the other side has gone")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _failure(error: BaseException) -> bytes:
    try:
        text = str(error)[:_SHOWN]
    except BaseException:  # noqa: BLE001 - the error is the program's own, and so is its text
        text = ""
    return b"!" + encode((type(error).__name__[:_SHOWN], text))


def candidate(descriptor: int) -> None:
    """Run the program that comes first; then answer calls: 8 bytes that the answer begins with, then the arguments."""
    channel = Channel(descriptor)
    name, program = decode(channel.receive())  # type: ignore[misc]
    sys.modules["candidate"] = module = type(sys)("candidate")  # dataclasses look their module up
    space, broken = vars(module), None
    try:
        _seeded(program)
        exec(compile(program, "candidate.py", "exec", dont_inherit=True), space)  # noqa: S102 - here is where it may
    except BaseException as error:  # noqa: BLE001 - also SystemExit
        broken = _failure(error)
    while request := channel.receive():
        channel.send(request[:8] + (broken or _called(space, name, request[8:])))


def _called(space: dict[str, object], name: str, request: bytes) -> bytes:
    try:
        arguments, keywords = decode(request)  # type: ignore[misc]
        if name not in space:
            raise NameError(f"the program defines no {name}")
        answer = b"=" + encode(space[name](*arguments, **keywords))  # type: ignore[operator]
        return answer if len(answer) + 8 <= LARGEST else _failure(ValueError("too large"))
    except BaseException as error:  # noqa: BLE001 - as above
        return _failure(error)


def examiner(descriptor: int) -> None:
    """Run the tests that come; answer with which of them held, and what was wrong with the first that did not."""
    channel = Channel(descriptor)
    name, prelude, tests = decode(channel.receive())  # type: ignore[misc]

    def proxy(*arguments: object, **keywords: object) -> object:
        channel.send(b"?" + encode((arguments, keywords)))
        answer = channel.receive()
        if answer[:1] == b"=":
            return decode(answer[1:])
        kind, text = decode(answer[1:])  # type: ignore[misc]
        raise _EXCEPTIONS.get(kind, RuntimeError)(text if kind in _EXCEPTIONS else f"{kind}: {text}")

    space: dict[str, object] = {"__name__": "examiner"}
    held, why = [], ""
    for number, test in enumerate((prelude, *tests)):
        try:
            _seeded(test)
            exec(compile(test, "tests.py", "exec", dont_inherit=True), space)  # noqa: S102
            held.append(True)
        except BaseException as error:  # noqa: BLE001 - also SystemExit
            held.append(False)
            kind, text = decode(_failure(error)[1:])  # type: ignore[misc]
            why = why or f"{f'test {number}' if number else 'the set-up of the tests'}: {kind}" + (text and f": {text}")
        space[name] = proxy  # after the prelude, which may hold a stub of that name
    channel.send(b"=" + encode(([h and held[0] for h in held[1:]], why)))


_EXCEPTIONS = {
    kind.__name__: kind
    for kind in (
        ArithmeticError, AssertionError, AttributeError, EOFError, Exception, FileNotFoundError, IndexError, KeyError, LookupError,
        MemoryError, NameError, NotImplementedError, OSError, OverflowError, PermissionError, RecursionError, RuntimeError,
        SyntaxError, TimeoutError, TypeError, ValueError, ZeroDivisionError,
    )
}  # fmt: skip


def _seeded(source: str) -> None:
    if "random" in source:  # the same numbers every time; importing it costs as much as starting Python
        import random

        random.seed(0)  # the global one is all that a program inside knows


def main(role: str, descriptor: str, seconds: str, memory: str) -> None:
    """Bind this process to its limits and go to work."""
    import resource

    for limit, most in (
        (resource.RLIMIT_AS, int(memory)),
        (resource.RLIMIT_CPU, int(seconds)),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(limit, (most, most))
    sys.argv[1:] = []
    {"candidate": candidate, "examiner": examiner}[role](int(descriptor))
