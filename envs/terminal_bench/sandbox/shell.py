"""The host's side of a terminal: commands in, output out. Invariant: no program can block this side
or fill its memory, and every wait has a deadline.

The shell is a loop that evaluates one command after the other and marks the end of each in the
terminal's own stream, so that output and its end cannot overtake each other. A mark has a number
that is drawn anew for every command.
"""

import contextlib
import os
import secrets
import termios
import time

from envs.terminal_bench.machine import Came
from envs.terminal_bench.sandbox.bubble import Bubble, wait_any

ROWS, COLUMNS = 40, 160
_STATE = "/run/r2v-shell"
_DRIVER = f"""
if [ -f {_STATE} ]; then . {_STATE} 2>/dev/null; command rm -f {_STATE}; fi
exec {{__r2v_tty}}>&1
: "${{__r2v_s:=0}}"
__r2v_n=
__r2v_is() {{ return "$1"; }}
__r2v_dump() {{
  __r2v_s=$1
  shift
  [ "${{#DIRSTACK[@]}}" -eq 1 ] || return "$__r2v_s"
  {{
    declare -p && declare -f && alias -p; shopt -p; set +o && trap -p && umask -p
    printf 'cd -- %q\\nset --' "$PWD"
    [ $# -eq 0 ] || printf ' %q' "$@"
    printf '\\n'
  }} > {_STATE} || command rm -f {_STATE}
  return "$__r2v_s"
}}
trap '__r2v_s=130; continue 1000' INT
trap : QUIT
shopt -s expand_aliases
while :; do
  if [ -n "$__r2v_n" ]; then printf '\\e]r2v;%s;%s\\a' "$__r2v_n" "$__r2v_s" >&"$__r2v_tty"; fi
  IFS= read -r -d '' -u 9 __r2v_c || exit 0
  __r2v_n=${{__r2v_c:0:16}}
  __r2v_is "$__r2v_s"
  eval "${{__r2v_c:16}}" 9<&-
  __r2v_s=$?
done
"""
_MARK = b"\x1b]r2v;"
_LONGEST_MARK = 64
_CHUNK = 1 << 16
_QUIET_S = (0.3, 0.3, 0.6, 1.2)
"""Silence after which to look whether a program waits for input; the last goes on."""
_GRACE_S = 1.5


class Output:
    """The beginning and the end of a stream of bytes."""

    def __init__(self, keep: int) -> None:
        self._half = keep // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """Take in more."""
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:
            self._drop(len(self._tail) - self._half)

    def _drop(self, count: int) -> None:
        self._left_out += count
        del self._tail[:count]

    @property
    def overflowed(self) -> bool:
        """Whether something is not kept."""
        return bool(self._left_out) or len(self._tail) > self._half

    def kept(self) -> bytes:
        """What is kept, with a line about what is not."""
        if len(self._tail) > self._half:
            self._drop(len(self._tail) - self._half)
        if not self._left_out:
            return bytes(self._head + self._tail)
        gap = f"\n[... {self._left_out} bytes left out ...]\n".encode()
        return bytes(self._head) + gap + bytes(self._tail)


class Shell:
    """One shell on one terminal. Raises Gone when the sandbox ends."""

    def __init__(
        self, bubble: Bubble, folder: str, environment: dict[str, str], keep_bytes: int
    ) -> None:
        self._bubble = bubble
        argv = ["/bin/bash", "--noprofile", "--norc", "-c", _DRIVER]
        reply = bubble.ask("shell", argv, environment, folder, ROWS, COLUMNS)
        self.process = int(reply.value)
        self._terminal, self._commands = reply.fds
        self._keep = keep_bytes
        self._nonce = b""
        os.set_blocking(self._terminal, False)
        os.set_blocking(self._commands, False)
        self._plain = termios.tcgetattr(self._terminal)
        self._plain[1] &= ~termios.ONLCR
        self._plain[3] &= ~termios.ECHO
        self._plain[6][termios.VSUSP] = b"\x00"
        self._settle()

    def _settle(self) -> None:
        """The terminal's own settings, whatever a program left behind."""
        termios.tcsetattr(self._terminal, termios.TCSANOW, self._plain)

    @property
    def busy(self) -> bool:
        """Whether a program holds the terminal."""
        return bool(self._nonce)

    @property
    def ended(self) -> bool:
        """Whether the shell's process is over."""
        self._bubble.poll()
        return self.process in self._bubble.ended

    def start(self, command: str) -> None:
        """Hand a command to the idle shell."""
        self._settle()
        self._nonce = secrets.token_hex(8).encode()
        text = command.replace("\0", "").encode("utf-8", "replace")
        self._write(self._commands, self._nonce + text + b"\0")

    def type(self, typed: bytes) -> None:
        """Type into the terminal."""
        self._write(self._terminal, typed)

    def _write(self, fd: int, data: bytes) -> None:
        deadline = time.monotonic() + _GRACE_S
        while data and time.monotonic() < deadline:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # the shell ended
                return

    def rest(self, output: Output, wait_s: float) -> tuple[Came | None, int | None]:
        """Read until the command ends (with its exit code), a program waits for input, the shell
        ends, or the time is over (None).
        """
        deadline = time.monotonic() + wait_s
        carry = b""
        quiet = iter(_QUIET_S)
        pause_s = next(quiet)
        looked_at = time.monotonic()
        while (now := time.monotonic()) < deadline:
            until = min(deadline - now, max(0.0, looked_at + pause_s - now))
            ready_fds = wait_any([self._terminal, self._bubble.control.fileno()], until)
            if self._bubble.control.fileno() in ready_fds and self.ended:
                output.add(carry + self._drain())
                return Came.SHELL_ENDED, self._bubble.ended[self.process]
            data = self._read() if self._terminal in ready_fds else b""
            if data:
                code, carry = self._take(carry + data, output)
                if code is not None:
                    return Came.ENDED, code
                looked_at, quiet = time.monotonic(), iter(_QUIET_S)
                pause_s = next(quiet)
            elif time.monotonic() - looked_at >= pause_s:
                if self._waits():
                    output.add(carry)
                    return Came.WAITS, None
                looked_at, pause_s = time.monotonic(), next(quiet, _QUIET_S[-1])
        output.add(carry)
        return None, None

    def _take(self, data: bytes, output: Output) -> tuple[int | None, bytes]:
        """Move bytes to the output; the exit code where the mark is among them, and what may be the
        beginning of a mark.
        """
        content, status, tail = split_at_mark(data, self._nonce)
        output.add(content)
        if status is None:
            return None, tail
        self._nonce = b""
        return int(status), b""

    def _read(self) -> bytes:
        try:
            return os.read(self._terminal, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # no process has the terminal any more; the note of it follows
            time.sleep(0.005)
            return b""

    def _drain(self) -> bytes:
        parts = []
        while data := self._read():
            parts.append(data)
        return b"".join(parts)

    def _waits(self) -> bool:
        line, key = self._bubble.ask("waiting").value
        raw = not termios.tcgetattr(self._terminal)[3] & termios.ICANON
        return bool(line or (key and raw))

    def interrupt(self, output: Output, before: frozenset[int]) -> Came:
        """Stop what runs: as a person would, then by killing what came with this command, then with
        the shell itself.
        """
        for key in (b"\x03", b"\x1c"):
            self._settle()
            self.type(key)
            outcome, _ = self.rest(output, _GRACE_S)
            if outcome in (Came.ENDED, Came.SHELL_ENDED):
                return Came.STOPPED if outcome is Came.ENDED else outcome
        self._bubble.ask("kill_new", sorted(before))
        outcome, _ = self.rest(output, _GRACE_S)
        if outcome in (Came.ENDED, Came.SHELL_ENDED):
            return Came.STOPPED if outcome is Came.ENDED else outcome
        self._bubble.ask("kill", self.process)
        return Came.SHELL_KILLED

    def dump_state(self) -> bool:
        """Write the shell's variables, functions and options where its successor finds them."""
        self.start('__r2v_dump "$?" "$@"')
        outcome, _ = self.rest(Output(0), _GRACE_S)
        return outcome is Came.ENDED and bool(self._bubble.ask("read", _STATE, 1).payload)

    def close(self) -> None:
        """Give the descriptors back; the process is not ended."""
        for fd in (self._terminal, self._commands):
            with contextlib.suppress(OSError):
                os.close(fd)


def split_at_mark(data: bytes, nonce: bytes) -> tuple[bytes, bytes | None, bytes]:
    """What is shown, what the mark of this number says (None where it is not there), and what may
    be the beginning of the mark.
    """
    mark = _MARK + nonce + b";"
    place = data.find(mark)
    if place >= 0:
        end = data.find(b"\a", place)
        if end >= 0:
            return data[:place] + data[end + 1 :], data[place + len(mark) : end], b""
        return data[:place], None, data[place:]
    start = data.rfind(b"\x1b", max(0, len(data) - _LONGEST_MARK))
    if start < 0:
        return data, None, b""
    return data[:start], None, data[start:]
