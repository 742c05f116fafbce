"""A shell in a container, over the one stream that an engine offers for a terminal: commands go in
where a person types, and come back marked as in `sandbox.shell`.

A command travels as lines of base64, which no setting of the terminal changes, and is evaluated by
a loop that reads them while no program does. What a person typed and no program read stands before
them and is passed over.
"""

import base64
import secrets
import select
import socket
import time
from collections.abc import Callable

from envs.terminal_bench.machine import Came
from envs.terminal_bench.sandbox.shell import Output, split_at_mark

_DRIVER = """
stty -echo -onlcr susp undef 2>/dev/null
trap '__r2v_s=130; continue 1000' INT
trap : QUIT
shopt -s expand_aliases
exec {__r2v_tty}>&1
__r2v_n=
__r2v_s=0
__r2v_is() { return "$1"; }
printf '\\e]r2v;begin;%s;%s\\a' "$$" "$PWD"
while :; do
  [ -z "$__r2v_n" ] || printf '\\e]r2v;%s;%s;%s\\a' "$__r2v_n" "$__r2v_s" "$PWD" >&"$__r2v_tty"
  stty -echo -onlcr susp undef icanon isig 2>/dev/null
  while IFS= read -r __r2v_n || exit 0; do [[ $__r2v_n != r2v:* ]] || break; done
  __r2v_n=${__r2v_n#r2v:}
  __r2v_c=
  while IFS= read -r __r2v_l && [ "$__r2v_l" != . ]; do __r2v_c+=$__r2v_l; done
  __r2v_c=$(printf %s "$__r2v_c" | base64 -d; printf x)
  __r2v_is "$__r2v_s"
  eval "${__r2v_c%x}"
  __r2v_s=$?
done
"""
COMMAND = ["/bin/bash", "--noprofile", "--norc", "-c", _DRIVER]
_LINE = 1024
"""A terminal takes lines of 4,095 bytes at most."""
_CHUNK = 1 << 16
_GRACE_S = 2.0
_QUIET_S = 1.5


class ContainerShell:
    """`waits` says whether a program of the container reads from its terminal, `kill` ends a
    process of the container and its children.
    """

    def __init__(
        self,
        stream: socket.socket,
        waits: Callable[[], bool],
        kill: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._waits = waits
        self._kill = kill
        self._nonce = b"begin"
        self.folder = "/"
        self.process = ""
        self._ended = False
        stream.setblocking(False)
        _, status = self._until_mark(Output(0), 20.0, look=False)
        process, _, folder = status.partition(b";")
        self.process = process.decode("ascii", "replace")
        self.folder = folder.decode("utf-8", "replace") or "/"
        self._nonce = b""

    @property
    def busy(self) -> bool:
        """Whether a program holds the terminal."""
        return bool(self._nonce)

    def start(self, command: str) -> None:
        """Hand a command to the idle shell."""
        self._nonce = secrets.token_hex(8).encode()
        coded = base64.b64encode(command.replace("\0", "").encode("utf-8", "replace"))
        lines = [coded[place : place + _LINE] for place in range(0, len(coded), _LINE)]
        self.type(b"\n".join((b"", b"r2v:" + self._nonce, *lines, b".", b"")))

    def type(self, typed: bytes) -> None:
        """Type into the terminal."""
        deadline = time.monotonic() + _GRACE_S
        while typed and time.monotonic() < deadline:
            try:
                typed = typed[self._stream.send(typed) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                self._ended = True
                return

    def rest(self, output: Output, wait_s: float) -> tuple[Came | None, int | None]:
        """As `sandbox.shell.Shell.rest`."""
        outcome, status = self._until_mark(output, wait_s, look=True)
        if outcome is not Came.ENDED:
            return outcome, None
        code, _, folder = status.partition(b";")
        self.folder = folder.decode("utf-8", "replace") or "/"
        self._nonce = b""
        return Came.ENDED, int(code)

    def _until_mark(self, output: Output, wait_s: float, look: bool) -> tuple[Came | None, bytes]:
        deadline = time.monotonic() + wait_s
        carry = b""
        quiet_since = time.monotonic()
        while (now := time.monotonic()) < deadline:
            pause_s = min(deadline - now, max(0.0, quiet_since + _QUIET_S - now))
            select.select([self._stream], [], [], pause_s)
            data = self._read()
            if self._ended:
                output.add(carry)
                return Came.SHELL_ENDED, b""
            if data:
                quiet_since = time.monotonic()
                content, status, carry = split_at_mark(carry + data, self._nonce)
                output.add(content)
                if status is not None:
                    return Came.ENDED, status
            elif look and time.monotonic() - quiet_since >= _QUIET_S:
                quiet_since = time.monotonic()
                if self._waits():
                    output.add(carry)
                    return Came.WAITS, b""
        output.add(carry)
        return None, b""

    def _read(self) -> bytes:
        try:
            data = self._stream.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self._ended = not data
        return data

    def interrupt(self, output: Output) -> Came:
        """Stop what runs: as a person would, then with the shell."""
        for key in (b"\x03", b"\x1c"):
            self.type(key)
            outcome, _ = self.rest(output, _GRACE_S)
            if outcome in (Came.ENDED, Came.SHELL_ENDED):
                return Came.STOPPED if outcome is Came.ENDED else outcome
        self._kill(self.process)
        return Came.SHELL_KILLED

    def close(self) -> None:
        """Give the stream back."""
        self._stream.close()
