"""The program that runs a candidate inside the sandbox, and the plain data in which values cross
its wall.

This file is sent into the sandbox as text, behind that of `code_loading`: it imports nothing but
the standard library, and nothing in it decides a verdict. It knows inputs and nothing that depends
on an expected output: which form a value is sent in, and how much of it, follow from the value
itself and from constants. So a candidate that rewrites it, its frames or its builtins can only
change which values come out. Values leave as plain data: an object with an `__eq__` of its own
stays behind. What goes in is marshalled, which is quick and safe from the trusted side to the
other; nothing that comes out is ever unmarshalled.
"""

import marshal
import posix  # `os` takes a millisecond to import
import sys
import time
from _json import encode_basestring_ascii, make_encoder  # `json` takes 10 ms to import

TYPE_CHECKING = False
if TYPE_CHECKING:  # the sandbox need not import them, or has their text already
    from collections.abc import Iterator
    from typing import Any

    from envs.coding.in_sandbox.loading import load
else:
    Any = object

_JSON_INTEGER_BITS = 256
_LOOK_S = 0.1
MEASURED_S = 1.0
"""Calls that take less are not told apart."""
_SMALL = 2**63
_LARGE_NUMBER = 2.0**64
_FLOAT_COST = 17
"""What the largest float costs."""
_FLOATS = 1 << 20
"""Of a list that is compared with a tolerance so many numbers are sent, and beyond that
a digest.
"""
_CROWD = 64
_KEYS: Any = type({}.keys())
_ITEMS: Any = type({}.items())
RAISED = '{"e": "raised"}'
"""Stands where a call gave no value; `decode` refuses it, so no value can be mistaken for it."""
_NEAR_ZERO = bytes((*range(0x43), *range(0x80, 0xC3)))
"""The highest bytes of doubles below 2**49 in size: among these every integer is told from its
neighbours.
"""
_HIGHEST = slice(7 if sys.byteorder == "little" else 0, None, 8)


class Digest(str):
    """Stands for a large value; equal to the digest of an equal value and to nothing else."""


class Opaque:
    """A value of a type that is not plain data. It is equal to nothing, itself included."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Oversize(Exception):
    """The value is larger than the caller wants to send."""


class Budget:
    """What may still be sent."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, amount: int) -> None:
        """Raises Oversize when nothing is left."""
        self.left -= amount
        if self.left < 0:
            raise Oversize

    def must_hold(self, items: int) -> None:
        """Raises Oversize before the first item is sent where the last one could not be."""
        if items > self.left:
            raise Oversize


def encode(value: Any, budget: Budget) -> Any:
    """The value as JSON-able data. A subclass of a plain type is the content that the plain type
    holds for it.

    Raises Oversize for more items and characters than the budget allows.
    """
    budget.spend(1)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        budget.spend(str.__len__(value))
        return str.__str__(value)
    if isinstance(value, int):
        budget.spend(int.bit_length(value) >> 6)
        small = int.bit_length(value) <= _JSON_INTEGER_BITS
        return int.__pos__(value) if small else {"i": int.__format__(value, "x")}
    if isinstance(value, float):
        return _counted(float.__pos__(value), budget)
    if isinstance(value, complex):
        return {"c": [_counted(part, budget) for part in _halves(value)]}
    if isinstance(value, dict):
        budget.must_hold(dict.__len__(value))
        return {"d": [[encode(k, budget), encode(v, budget)] for k, v in dict.items(value)]}
    if isinstance(value, (bytes, bytearray)):
        budget.spend(len(memoryview(value)))
        return {"b": memoryview(value).hex()}
    for base_type, kind in _COLLECTIONS:
        if isinstance(value, base_type):
            budget.must_hold(base_type.__len__(value))
            items = [encode(item, budget) for item in base_type.__iter__(value)]
            return {kind: items} if kind else items
    return {"o": type(value).__name__}


_COLLECTIONS: Any = (
    (list, ""),
    (tuple, "t"),
    (set, "s"),
    (frozenset, "z"),
    (_KEYS, "s"),
    (_ITEMS, "s"),
)
"""Views of a dictionary are equal to sets of the same items."""


def _counted(number: float, budget: Budget) -> float:
    """A float costs as much as the integer that equals it: which form a value is sent in must be
    the same for equal ones."""
    if abs(number) >= _LARGE_NUMBER and abs(number) != float("inf"):
        budget.spend(int(number).bit_length() >> 6)
    return number


def _halves(value: complex) -> list[float]:
    """The real and the imaginary part, whatever a subclass says they are."""
    number = complex.__pos__(value)
    return [number.real, number.imag]


def digest(value: Any, numbers: Any = None) -> str:
    """Equal for values that are equal in Python, 1 and 1.0 and True included; for values too large
    to send. `numbers` is `_doubles` of the value, where it is known already.
    """
    import hashlib

    hasher = hashlib.sha256()
    for part in _parts(value, numbers):
        hasher.update(part)
    return hasher.hexdigest()


def _doubles(items: Any) -> Any:
    """A list or tuple of plain numbers as an array; None for what is none, or too large for it."""
    from array import array

    kinds = set(map(type, items))
    if not kinds or not kinds <= {int, float, bool}:
        return None
    try:
        return array("d", items)
    except OverflowError:
        return None


def _told_apart(numbers: Any) -> Any:
    """The array, the same for equal numbers; None where some are too large to be told from their
    neighbours in it.
    """
    from array import array

    highest = numbers.tobytes()[_HIGHEST]
    if highest.translate(None, _NEAR_ZERO):
        return None
    # Adding 0.0 makes -0.0 and 0.0 the same, as they are equal.
    return array("d", [number + 0.0 for number in numbers]) if b"\x80" in highest else numbers


def _parts(value: Any, numbers: Any = None) -> "Iterator[bytes]":
    import hashlib

    if isinstance(value, list | tuple):
        base_type: Any = list if isinstance(value, list) else tuple
        items = value if type(value) is list else list(base_type.__iter__(value))
        yield b"[" if base_type is list else b"("
        yield str(len(items)).encode()
        if numbers is None:
            numbers = _doubles(items)
        canonical = None if numbers is None else _told_apart(numbers)
        if canonical is not None:
            yield b"a" + hashlib.sha256(canonical).digest()
        elif set(map(type, items)) == {str}:
            yield hashlib.sha256(marshal.dumps(items, 0)).digest()
        else:
            hasher = hashlib.sha256()
            for item in items:
                for part in _parts(item):
                    hasher.update(part)
            yield hasher.digest()
    elif isinstance(value, dict):
        yield b"d" + b"".join(sorted(digest((k, v)).encode() for k, v in dict.items(value)))
    elif isinstance(value, set | frozenset | _KEYS | _ITEMS):
        yield b"s" + b"".join(sorted(digest(v).encode() for v in value))
    elif isinstance(value, str):
        yield b"u" + str(str.__len__(value)).encode() + b":"
        yield str.encode(value, errors="surrogatepass")
    elif value is None:
        yield b"rNone;"
    elif isinstance(value, bytes | bytearray):
        yield b"r" + repr(bytes(value)).encode() + b";"
    else:
        yield _number(value)


def _number(value: Any) -> bytes:
    """The same for numbers that are equal; for what is no number, and for NaN, the same
    as nothing.
    """
    if isinstance(value, complex):
        real, imaginary = _halves(value)
        if imaginary:
            return b"c" + _number(real) + _number(imaginary)
        value = real
    if isinstance(value, int):
        return b"i" + int.__format__(value, "x").encode() + b";"
    if isinstance(value, float):
        number = float.__pos__(value)
        if number.is_integer():
            return b"i" + format(int(number), "x").encode() + b";"
        return b"f" + number.hex().encode() + b";" if number == number else posix.urandom(16)
    return posix.urandom(16)


def decode(data: Any) -> Any:
    """The value again; a fresh object at every call. Raises ValueError or TypeError for what
    `encode` cannot have written.
    """
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not a value of the wire format")
    ((kind, content),) = data.items()
    if kind == "i":
        return int(content, 16)
    if kind == "c":
        return complex(*content)
    if kind == "t":
        return tuple(decode(item) for item in content)
    if kind == "d":
        keys = spread([decode(k) for k, _ in content])
        return dict(zip(keys, [decode(v) for _, v in content], strict=True))
    if kind in ("s", "z"):
        return (set if kind == "s" else frozenset)(spread([decode(item) for item in content]))
    if kind == "b":
        return bytes.fromhex(content)
    if kind == "h":
        return Digest(content)
    if kind == "o":
        return Opaque(str(content))
    raise ValueError(f"no kind {kind} in the wire format")


def spread(keys: list[Any]) -> list[Any]:
    """The keys. Raises ValueError where many different ones have one hash: a set of them would take
    for ever."""
    firsts: dict[int, Any] = {}
    crowd = 0
    for key in keys if len(keys) > _CROWD else ():
        crowd += firsts.setdefault(hash(key), key) != key
    if crowd > _CROWD + len(keys) // _CROWD:
        raise ValueError("keys that collide")
    return keys


def message(value: Any, budget: int, whole_floats: bool) -> Any:
    """What is sent of a value: all of it or, beyond the budget, its digest.

    A list of numbers that has to be compared with a tolerance, as one of them is a fraction, is
    sent whole; of the canonical solution (`whole_floats`) every list of floats is, as all of them
    may be expected where a candidate gives fractions.
    """
    try:
        return encode(value, Budget(budget))
    except Oversize:
        pass
    if not isinstance(value, (list, tuple)):
        return {"h": digest(value)}
    numbers = _doubles(value) if type(value) in (list, tuple) else None
    try:
        if _fractions(value, numbers) or (whole_floats and _only_floats(value)):
            return encode(value, Budget(max(budget, _FLOATS)))
    except Oversize:
        pass
    return {"h": digest(value, numbers)}


def _fractions(items: list[Any] | tuple[Any, ...], numbers: Any) -> bool:
    """Whether all are numbers, and one is a float that is no integer."""
    if numbers is not None:
        return not all(map(float.is_integer, numbers))  # in C: such a list can be long
    kinds = set(map(type, items))
    if not any(issubclass(kind, float) for kind in kinds):
        return False
    if not all(issubclass(kind, (int, float)) for kind in kinds):
        return False
    return any(isinstance(item, float) and not float.is_integer(item) for item in items)


def _only_floats(items: list[Any] | tuple[Any, ...]) -> bool:
    return all(issubclass(kind, float) for kind in set(map(type, items)))


_NOBODY: Any = None  # no hook for what json does not know
_chunks: Any = make_encoder(
    None, _NOBODY, encode_basestring_ascii, None, ": ", ", ", False, False, True
)


def dumps(data: Any) -> str:
    """As `json.dumps`, for what `encode` gives."""
    return "".join(_chunks(data, 0))


def written(value: Any, budget: int, whole_floats: bool) -> str:
    """`message` as text. A few words or small numbers, which most values are, come to the same text
    by a shorter way.
    """
    kind = type(value)
    if kind is str and len(value) < budget:
        return str(encode_basestring_ascii(value))
    if kind is int and -_SMALL < value < _SMALL:
        return int.__repr__(value)
    if kind is bool:
        return "true" if value else "false"
    if (kind is list or kind is tuple) and len(value) < budget and _flat(value, budget):
        items = "".join(_chunks(value, 0))
        return items if kind is list else f'{{"t": {items}}}'
    return dumps(message(value, budget, whole_floats))


def _flat(items: list[Any] | tuple[Any, ...], budget: int) -> bool:
    """Whether all are small numbers, or all are words and within the budget."""
    kinds = set(map(type, items))
    if kinds == {int}:
        return bool(max(items) < _SMALL and min(items) > -_SMALL)
    if kinds == {str}:
        return len(items) + sum(map(len, items)) < budget
    return kinds <= {float, bool} and len(items) * _FLOAT_COST < budget


def line(index: int, seconds: float, encoded: str) -> str:
    """What the sandbox says of one call."""
    return f"[{index}, {seconds!r}, {encoded}]\n"


class TimeLimit(Exception):
    """One call took too long."""


class Watch:
    """Ends a call that used up its processor time, or that waited for other things than a processor
    five times as long.

    Looks now and then. A call counts from the first look at it on, and on a busy machine no faster
    than on an idle one.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.call: int | None = None
        """The number of the call that runs now; None between calls."""
        self._seen: int | None = None
        self._cpu_end = self._own_end = 0.0
        try:
            self._schedstat = posix.open("/proc/self/schedstat", posix.O_RDONLY)
        except OSError:
            self._schedstat = -1

    def look(self, *_: object) -> None:
        """Handle a signal. Raises TimeLimit, also inside the candidate, which may catch it: its
        time starts again then.
        """
        if self.call is None:
            self._seen = None
        elif self.call != self._seen:
            self._cpu_end = time.process_time() + self._seconds
            self._own_end = self._own() + 5 * self._seconds
            # Last, since the next look may interrupt this one and must not read older ends.
            self._seen = self.call
        elif time.process_time() >= self._cpu_end or self._own() >= self._own_end:
            self._seen = None
            raise TimeLimit

    def _own(self) -> float:
        """Seconds by the clock, without those in which this process was ready and got no processor;
        see envs/sandbox/deadline.py.
        """
        waited = int(posix.pread(self._schedstat, 99, 0).split()[1]) if self._schedstat >= 0 else 0
        return time.monotonic() - waited / 1e9


def main(data: bytes) -> None:
    """Do the marshalled job (code, entry_point, truth, budget, seconds, calls: [arguments, ...]);
    write a line a call.

    The line is [index, CPU seconds, value]; the seconds are 0.0 below `MEASURED_S` except for the
    `truth`.
    `budget` and `seconds` are the same for all calls. A value beyond the budget is sent as a
    digest. The first call that raises or runs past its limit is the last. What the candidate prints
    goes nowhere.
    """
    import _signal  # type: ignore[import-not-found]  # without the enums of `signal`

    names = ("code", "entry_point", "truth", "budget", "seconds", "calls")
    job = dict(zip(names, marshal.loads(data), strict=True))
    channel = open(posix.dup(1), "w", encoding="utf-8")  # noqa: SIM115 (this process ends with it)
    nowhere = posix.open("/dev/null", posix.O_RDWR)
    for stream in (0, 1, 2):
        posix.dup2(nowhere, stream)

    loads, clock = marshal.loads, time.process_time
    truth, budget = job["truth"], job["budget"]
    least_s = 0.0 if truth else MEASURED_S
    watch = Watch(job["seconds"])
    function = load(job["code"])[job["entry_point"]]
    _signal.signal(_signal.SIGALRM, watch.look)
    _signal.setitimer(_signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    index = 0
    try:
        for index, call in enumerate(job["calls"]):
            arguments = loads(call)
            watch.call = index
            start_s = clock()
            result = function(*arguments)
            # Writing a value down takes its time too, as an answer can be made that takes for ever.
            text = written(result, budget, truth)
            seconds = clock() - start_s
            watch.call = None
            channel.write(line(index, seconds if seconds >= least_s else 0.0, text))
    except BaseException:
        watch.call = None
        channel.write(line(index, 0.0, RAISED))
    finally:
        watch.call = None
        channel.flush()
        posix._exit(0)  # threads and exit handlers of the candidate have nothing more to say
