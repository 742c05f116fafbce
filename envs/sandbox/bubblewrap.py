"""What a sandbox is made of. What is not named here does not exist inside.

A sandbox sees /usr and the interpreter's own prefix, read-only and without the packages that are
installed there; /proc of its own processes, read-only, as its files lead to the supervisor's memory
and to priorities; four harmless devices; an empty environment; and /tmp, the only place it can
write, held in memory and limited in size. It has no network, no capabilities, no way to new
namespaces, and is never root on the host. Addresses are not randomised and string hashes are fixed,
so that a program that prints them prints the same every time.
"""

import marshal
import sys
from functools import cache
from pathlib import Path
from types import CodeType

from envs.sandbox.privileges import REACHABLE, hidden, prefix

_SHARED_MEMORY_BYTES = 1 << 20
_PROJECT = Path(__file__).parents[2]
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp/work",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
}


def interpreter(supervisor: Path = _SUPERVISOR, modules: tuple[Path, ...] = ()) -> list[str]:
    """The command of an interpreter that runs a supervisor: without user site, site packages,
    bytecode files, and without unsafe folders on its path. `modules` are those of this project that
    the supervisor imports, each after those that it imports itself.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # The venv's executable needs the venv's pyvenv.cfg; the base executable finds its library by
    # itself.
    program = _compiled(supervisor, modules)
    return [str(prefix() / "bin" / version), "-P", "-s", "-S", "-B", "-c", program]


@cache
def _compiled(supervisor: Path, modules: tuple[Path, ...]) -> str:
    """A program for `python -c`, compiled once and here, because the interpreter inside is the
    same. Its modules stand where an import looks first, as their files are not inside.
    """
    named_codes = [(_name(module), _code(module)) for module in modules]
    named_codes.append(("__main__", _code(supervisor)))
    return f"""import marshal, sys
for name, code in marshal.loads(bytes.fromhex({marshal.dumps(named_codes).hex()!r})):
    exec(code, sys.modules.setdefault(name, type(sys)(name)).__dict__)
"""


def _code(path: Path) -> CodeType:
    """Without docstrings: the kernel takes arguments of 128 KiB at most."""
    source = path.read_text(encoding="utf-8")
    return compile(source, path.name, "exec", dont_inherit=True, optimize=2)


def _name(module: Path) -> str:
    """What a file of this project is imported as."""
    return ".".join(module.relative_to(_PROJECT).with_suffix("").parts)


def isolated(user: int, host: str) -> list[str]:
    """Options of every sandbox: namespaces of its own, whose user is nobody's on the host, no
    capability, and an end with whoever started it.
    """
    arguments = ["--unshare-all", "--unshare-user", "--disable-userns"]
    arguments += ["--uid", str(user), "--gid", str(user), "--cap-drop", "ALL"]
    return [*arguments, "--new-session", "--die-with-parent", "--hostname", host]


def interpreter_shown() -> list[str]:
    """Options that show the interpreter where /usr does not have it."""
    if prefix().is_relative_to("/usr"):
        return []
    return ["--ro-bind", REACHABLE if hidden() else str(prefix()), str(prefix())]


def options(tmp_mib: int) -> list[str]:
    """The options that define a sandbox. `tmp_mib` is the size of /tmp."""
    arguments = [*isolated(1000, "sandbox"), "--as-pid-1", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    arguments += ["--ro-bind", "/usr", "/usr", *system_folders()]
    arguments += ["--proc", "/proc", "--remount-ro", "/proc", "--dir", "/dev"]
    for device in ("null", "zero", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    arguments += ["--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    arguments += ["--size", str(tmp_mib << 20), "--tmpfs", "/tmp"]
    arguments += ["--dir", "/tmp/work", "--chdir", "/tmp/work", *interpreter_shown()]
    for folder in hidden_folders():
        arguments += ["--tmpfs", folder, "--remount-ro", folder]
    return [*arguments, "--remount-ro", "/"]


@cache
def system_folders() -> tuple[str, ...]:
    """/bin, /lib and the like: links into /usr on most systems, folders of their own on others."""
    arguments: list[str] = []
    for path in (Path("/bin"), Path("/lib"), Path("/lib64"), Path("/sbin")):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return tuple(arguments)


@cache
def hidden_folders() -> tuple[str, ...]:
    """Folders that a sandbox would show and must hide: installed packages, and this project with
    its solutions."""
    folders = {Path(__file__).resolve().parents[1]}
    for root in (Path("/usr"), Path("/usr/local"), prefix()):
        for kind in ("site-packages", "dist-packages"):
            folders.update(folder.resolve() for folder in root.glob(f"lib*/python3*/{kind}"))
    shown_folders = {folder for folder in folders if _is_shown(folder)}
    # Nothing can be mounted inside a hidden folder, and nothing has to be.
    outermost = [folder for folder in shown_folders if shown_folders.isdisjoint(folder.parents)]
    return tuple(str(folder) for folder in sorted(outermost))


def _is_shown(folder: Path) -> bool:
    return folder.is_relative_to("/usr") or folder.is_relative_to(prefix())
