"""What runs inside a sandbox: a started interpreter that waits on standard input for one program
and runs it in a child.

It is the first process of its PID namespace, so the kernel ends every other one with it, and
signals from them do not reach it. It is given to the interpreter compiled, and must import little
and nothing but the standard library: every sandbox waits for it. The message is its length (8
bytes, little endian) and a marshalled (source, files, rlimits, report); what follows on standard
input is the program's own. How the program ended goes to the descriptor `report`: exit code (minus
the signal's number) and processor milliseconds, 8 bytes each.
"""

# `signal` without its enums, whose import takes milliseconds
import _signal  # type: ignore[import-not-found]
import _sitebuiltins
import builtins
import marshal
import posix  # `os` takes a millisecond to import
import resource
import sys


def receive(count: int) -> bytes:
    """Exactly `count` bytes of standard input. An end of input means that this sandbox is not
    needed any more.
    """
    parts = []
    while count:
        part = posix.read(0, min(count, 1 << 20))
        if not part:
            posix._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def unpack(files: dict[str, bytes]) -> None:
    """Write the program's files under the working directory."""
    if not files:
        return
    import os

    for name, content in files.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)


def become(source: str) -> int:
    """Run `source` as the main module; the status that an uncaught exception leaves."""
    path = posix.getcwd().rpartition("/")[0] + "/main.py"
    with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(source)
    program = type(sys)("__main__")
    program.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"] = program
    sys.argv[:] = [path]
    sys.path.insert(0, posix.getcwd())
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
        user_error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        sys.excepthook(type(user_error), user_error, user_error.__traceback__)
        return 1
    return 0


def end_all_others() -> None:
    """End every process of this namespace. All descend from this one, so without children it is
    alone.
    """
    while True:
        try:
            posix.kill(-1, _signal.SIGKILL)
            posix.wait()
        except (ProcessLookupError, ChildProcessError):
            return


def supervise(child: int, report: int) -> None:
    """Collect whatever ends until the program has, end what it left behind, and report."""
    for fd in (0, 1, 2):
        posix.close(fd)
    process = 0
    while process != child:
        process, status, usage = posix.wait3(0)
    if posix.getpid() == 1:  # else -1 would mean every process of the user
        end_all_others()
    numbers = (posix.waitstatus_to_exitcode(status), int(1e3 * (usage.ru_utime + usage.ru_stime)))
    posix.write(report, b"".join(number.to_bytes(8, "little", signed=True) for number in numbers))
    posix._exit(0)


def main() -> int:
    """Say that the interpreter is ready, wait for the program, and run it under its limits."""
    # The first process of a namespace gets only signals for which it has a handler: have none.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    posix.write(1, b"\n")
    source, files, rlimits, report = marshal.loads(receive(int.from_bytes(receive(8), "little")))
    child = posix.fork()
    if child:
        supervise(child, report)
    posix.close(report)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    unpack(files)
    for kind, limit in rlimits:
        resource.setrlimit(kind, limit)
    return become(source)


if __name__ == "__main__":
    sys.exit(main())
