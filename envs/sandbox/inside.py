"""What runs inside a sandbox: a started interpreter that waits on standard input for one program, and becomes that program.

This file is given to the interpreter as text and must import nothing that the standard library lacks. The message is its
length (8 bytes, little endian) and a marshalled (source, files, rlimits); what follows it on standard input is the program's own.
"""

import _sitebuiltins
import builtins
import marshal
import os
import resource
import sys


def receive(count: int) -> bytes:
    """Exactly `count` bytes of standard input. An end of input means that this sandbox is not needed any more."""
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def unpack(files: dict[str, bytes]) -> None:
    """Write the program's files under the working directory."""
    for name, content in files.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)


def become(source: str) -> int:
    """Run `source` as the main module; the status that an uncaught exception leaves."""
    path = os.path.join(os.path.dirname(os.getcwd()), "main.py")
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(source)
    program = type(sys)("__main__")
    program.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"] = program
    sys.argv[:] = [path]
    sys.path.insert(0, os.getcwd())
    # `site` is not loaded, for speed; these two are all of it that programs use.
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    # So that what was printed before a time limit is not lost.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        exec(compile(source, path, "exec", dont_inherit=True), program.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        # Without this function's own frame the traceback is that of `python main.py`.
        own = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        sys.excepthook(type(own), own, own.__traceback__)
        return 1
    return 0


def main() -> int:
    """Say that the interpreter is ready, wait for the program, and run it under its limits."""
    os.write(1, b"\n")
    source, files, rlimits = marshal.loads(receive(int.from_bytes(receive(8), "little")))
    unpack(files)
    for kind, limit in rlimits:
        resource.setrlimit(kind, limit)
    return become(source)


if __name__ == "__main__":
    sys.exit(main())
