"""The program that runs a candidate inside the sandbox, and the plain data in which values cross its wall.

This file is sent into the sandbox as text: it imports nothing but the standard library, and nothing in it decides a
verdict. It knows inputs but no expected output, so a candidate that rewrites it, its frames or its builtins can only
change which values come out. Values leave as plain data: an object with an `__eq__` of its own stays behind. What goes
in is marshalled, which is quick and safe from the trusted side to the other; nothing that comes out is ever unmarshalled.
"""

import marshal
import posix  # `os` takes a millisecond to import
import sys
import time
from _json import encode_basestring_ascii, make_encoder  # `json` takes 10 ms to import

TYPE_CHECKING = False
if TYPE_CHECKING:  # the sandbox need not import them
    from collections.abc import Iterator
    from typing import Any
else:
    Any = object

_JSON_INTEGER_BITS = 256
_LOOK_S = 0.1
_SMALL = 2**63
_NEAR_ZERO = bytes((*range(0x43), *range(0x80, 0xC3)))
"""The highest bytes of doubles below 2**49 in size: among these every integer is told from its neighbours."""
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
    """The value as JSON-able data. A subclass of a plain type is the content that the plain type holds for it.

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
        return int.__pos__(value) if int.bit_length(value) <= _JSON_INTEGER_BITS else {"i": int.__format__(value, "x")}
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if isinstance(value, list):
        budget.must_hold(list.__len__(value))
        return [encode(v, budget) for v in list.__iter__(value)]
    if isinstance(value, tuple):
        budget.must_hold(tuple.__len__(value))
        return {"t": [encode(v, budget) for v in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"d": [[encode(k, budget), encode(v, budget)] for k, v in dict.items(value)]}
    if isinstance(value, set):
        return {"s": [encode(v, budget) for v in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"z": [encode(v, budget) for v in frozenset.__iter__(value)]}
    if isinstance(value, bytes):
        budget.spend(bytes.__len__(value))
        return {"b": bytes.hex(value)}
    return {"o": type(value).__name__}


def digest(value: Any) -> str:
    """Equal for values that are equal in Python, 1 and 1.0 and True included; for values too large to send."""
    import hashlib

    whole = hashlib.sha256()
    for part in _parts(value):
        whole.update(part)
    return whole.hexdigest()


def _doubles(items: list[Any]) -> Any:
    """Numbers as an array; None where some are too large to be told from their neighbours in it."""
    from array import array

    try:
        numbers = array("d", items)
    except OverflowError:
        return None
    highest = numbers.tobytes()[_HIGHEST]
    if highest.translate(None, _NEAR_ZERO):
        return None
    # Adding 0.0 makes -0.0 and 0.0 the same, as they are equal.
    return array("d", [number + 0.0 for number in numbers]) if b"\x80" in highest else numbers


def _parts(value: Any) -> "Iterator[bytes]":
    import hashlib

    if isinstance(value, list | tuple):
        yield b"[" if isinstance(value, list) else b"("
        yield str(len(value)).encode()
        items = value if type(value) is list else list(value)
        kinds = set(map(type, items))
        if kinds == {str}:
            yield hashlib.sha256(marshal.dumps(items, 0)).digest()
        elif kinds and kinds <= {int, float, bool} and (numbers := _doubles(items)) is not None:
            yield b"a" + hashlib.sha256(numbers).digest()
        else:
            folded = hashlib.sha256()
            for item in items:
                for part in _parts(item):
                    folded.update(part)
            yield folded.digest()
    elif isinstance(value, dict):
        yield b"d" + b"".join(sorted(digest((k, v)).encode() for k, v in dict.items(value)))
    elif isinstance(value, set | frozenset):
        yield b"s" + b"".join(sorted(digest(v).encode() for v in value))
    elif isinstance(value, complex) and value.imag:
        yield b"c" + b"".join((*_parts(value.real), *_parts(value.imag)))
    elif isinstance(value, complex):
        yield from _parts(value.real)
    elif isinstance(value, float) and not value.is_integer():
        yield b"f" + value.hex().encode() + b";" if value == value else posix.urandom(16)
    elif isinstance(value, int | float):
        yield b"i" + format(int(value), "x").encode() + b";"
    elif isinstance(value, str):
        yield b"u" + str(len(value)).encode() + b":"
        yield value.encode(errors="surrogatepass")
    elif value is None or isinstance(value, bytes):
        yield b"r" + repr(value).encode() + b";"
    else:
        yield posix.urandom(16)  # equal to nothing


def decode(data: Any) -> Any:
    """The value again; a fresh object at every call. Raises ValueError or TypeError for what `encode` cannot have written."""
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
        return {decode(k): decode(v) for k, v in content}
    if kind in ("s", "z"):
        return (set if kind == "s" else frozenset)(decode(item) for item in content)
    if kind == "b":
        return bytes.fromhex(content)
    if kind == "h":
        return Digest(content)
    if kind == "o":
        return Opaque(str(content))
    raise ValueError(f"no kind {kind} in the wire format")


def message(value: Any, budget: int, whole_floats: bool) -> Any:
    """What is sent of a value: all of it or, beyond the budget, its digest. Floats may have to be compared with a tolerance."""
    try:
        return encode(value, Budget(budget))
    except Oversize:
        if whole_floats and isinstance(value, (list, tuple)) and all(isinstance(item, float) for item in value):
            return encode(value, Budget(len(value) + 1))
        return {"h": digest(value)}


_chunks: Any = make_encoder(None, None, encode_basestring_ascii, None, ": ", ", ", False, False, True)  # type: ignore[arg-type]


def dumps(data: Any) -> str:
    """As `json.dumps`, for what `encode` gives."""
    return "".join(_chunks(data, 0))


def written(value: Any, budget: int, whole_floats: bool) -> str:
    """`message` as text. A few words or small numbers, which most values are, come to the same text by a shorter way."""
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
    return kinds <= {float, bool}


def line(index: int, seconds: float, encoded: str) -> str:
    """What the sandbox says of one call."""
    return f"[{index}, {seconds!r}, {encoded}]\n"


class TimeLimit(Exception):
    """One call took too long."""


class Watch:
    """Ends a call that used up its processor time, or that waited for other things than a processor five times as long.

    Looks now and then. A call counts from the first look at it on, and on a busy machine no faster than on an idle one.
    """

    def __init__(self) -> None:
        self.call: tuple[bytes, float, int] | None = None
        """The call that runs now, its second item the seconds it may take; None between calls."""
        self._seen: tuple[bytes, float, int] | None = None
        self._cpu_end = self._own_end = 0.0
        try:
            self._schedstat = posix.open("/proc/self/schedstat", posix.O_RDONLY)
        except OSError:
            self._schedstat = -1

    def look(self, *_: object) -> None:
        """Handle a signal. Raises TimeLimit, also inside the candidate, which may catch it: its time starts again then."""
        if self.call is None or self.call is not self._seen:
            self._seen = self.call
        elif time.process_time() < self._cpu_end and self._own() < self._own_end:
            return
        else:
            self._seen = None
            raise TimeLimit
        if self.call is not None:
            self._cpu_end, self._own_end = time.process_time() + self.call[1], self._own() + 5 * self.call[1]

    def _own(self) -> float:
        """Seconds by the clock, without those in which this process was ready and got no processor; see envs/sandbox/patience.py."""
        waited = int(posix.pread(self._schedstat, 99, 0).split()[1]) if self._schedstat >= 0 else 0
        return time.monotonic() - waited / 1e9


def main(data: bytes) -> None:
    """Do the marshalled job (code, entry_point, truth, calls: [(arguments, seconds, budget), ...]); write a line a call.

    The line is [index, CPU seconds, value]; the seconds are measured only for the `truth`, and 0.0 else.
    A value beyond its budget is sent as a digest.
    The first call that raises or runs past its limit is the last. What the candidate prints goes nowhere.
    """
    import _signal  # type: ignore[import-not-found]  # without the enums of `signal`

    job = dict(zip(("code", "entry_point", "truth", "calls"), marshal.loads(data), strict=True))
    channel = open(posix.dup(1), "w", encoding="utf-8")  # noqa: SIM115 (this process ends with it)
    nowhere = posix.open("/dev/null", posix.O_RDWR)
    for stream in (0, 1, 2):
        posix.dup2(nowhere, stream)

    if "random" in job["code"]:  # it takes 2 ms to import
        import random

        random.seed(0)
    scope: dict[str, Any] = {}
    exec(compile(job["code"], "solution.py", "exec", dont_inherit=True), scope)
    function, truth, loads = scope[job["entry_point"]], job["truth"], marshal.loads
    clock = time.process_time if truth else float  # float() is 0.0
    watch = Watch()
    _signal.signal(_signal.SIGALRM, watch.look)
    _signal.setitimer(_signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
    try:
        for index, call in enumerate(job["calls"]):
            arguments = loads(call[0])
            started = clock()
            watch.call = call
            result = function(*arguments)
            watch.call = None
            seconds = clock() - started
            channel.write(line(index, seconds, written(result, call[2], truth)))
    finally:
        watch.call = None
        channel.flush()
        posix._exit(0)  # threads and exit handlers of the candidate have nothing more to say
