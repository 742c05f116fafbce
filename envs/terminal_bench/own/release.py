"""The family `cut-release`: git, C, make and archives."""

import random

from envs.terminal_bench.own.drawing import names, sentence
from envs.terminal_bench.own.family import Made

_GIT = """
export GIT_AUTHOR_DATE='2023-03-01T10:00:00Z' GIT_COMMITTER_DATE='2023-03-01T10:00:00Z'
export GIT_AUTHOR_NAME=ada GIT_AUTHOR_EMAIL=ada@example.org
export GIT_COMMITTER_NAME=ada GIT_COMMITTER_EMAIL=ada@example.org
"""


def cut_release(rng: random.Random) -> Made:
    """A program in a repository, of which a version is to be released."""
    tool = names(rng, 1)[0]
    factor = rng.randint(2, 9)
    old, new = f"1.{rng.randint(0, 8)}.0", f"1.{rng.randint(9, 20)}.0"
    subjects = [f"{rng.choice(('Add', 'Repair', 'Speed up'))} {sentence(rng, 2)}" for _ in range(3)]
    source = (
        f'#include <stdio.h>\n#include <stdlib.h>\n#define VERSION "{old}"\n'
        "int main(int argc, char **argv) {\n"
        "  if (argc < 2) { puts(VERSION); return 0; }\n"
        f'  printf("%d\\n", atoi(argv[1]) * {factor});\n  return 0;\n}}\n'
    )
    makefile = (
        f"{tool}: {tool}.c\n\tgcc -Wall -o $@ $<\n\n"
        f"check: {tool}\n\ttest $$(./{tool} 3) = {3 * factor}\n"
    )
    commits = "\n".join(
        f"echo '{subject}' >> notes.txt; git add . && git commit -q -m '{subject}'"
        for subject in subjects
    )
    changes = "\n".join(f"- {subject}" for subject in subjects)
    changelog = f"# {new}\n\n{changes}\n\n# {old}\n\n- First release\n"
    bundle = f"{tool}-{new}"
    return Made(
        instruction=_instruction(tool, old, new, bundle),
        files={
            f"repo/{tool}.c": source,
            "repo/Makefile": makefile,
            "repo/CHANGELOG.md": f"# {old}\n\n- First release\n",
        },
        setup=f"cd repo\n{_GIT}\ngit init -q -b main . && git add . && git commit -q -m start\n"
        f"git tag v{old}\n{commits}",
        oracle=_oracle(tool, old, new, bundle),
        wrong=_wrong(tool, old, new, bundle),
        check=_check(tool, new, bundle, changelog.strip(), source.replace(old, new).strip()),
    )


def _instruction(tool: str, old: str, new: str, bundle: str) -> str:
    return (
        f"Release version {new} of the program in the git repository /app/repo.\n"
        f"1. Set VERSION in {tool}.c to {new}.\n"
        f"2. Put a section `# {new}` on top of CHANGELOG.md, followed by an empty line, one line "
        f"`- SUBJECT` for every commit since the tag v{old}, the oldest first, and an empty line.\n"
        f"3. `make check` must pass; {tool} itself must not be committed: name it in .gitignore.\n"
        f"4. Commit all of this on main as 'Release {new}' and tag the commit v{new}.\n"
        f"5. Write /app/dist/{bundle}.tar.gz with the files of the commit below {bundle}/, and its "
        f"SHA-256 sum in the form of sha256sum to /app/dist/SHA256SUMS, with the bare file name."
    )


def _oracle(tool: str, old: str, new: str, bundle: str) -> tuple[str, ...]:
    return (
        "cd /app/repo && git status --short | wc -l",
        f"git log --reverse --format='- %s' v{old}..HEAD > /tmp/changes",
        f"grep -n VERSION {tool}.c",
        f'sed -i \'s/"{old}"/"{new}"/\' {tool}.c',
        "git show HEAD:CHANGELOG.md > /tmp/before",
        f"printf '# {new}\\n\\n' > CHANGELOG.md",
        "cat /tmp/changes >> CHANGELOG.md",
        "echo >> CHANGELOG.md && cat /tmp/before >> CHANGELOG.md",
        f"echo {tool} > .gitignore",
        "make -s check",
        f"./{tool}",
        "git add -A",
        f"git commit -q -m 'Release {new}'",
        f"git tag v{new}",
        "mkdir -p /app/dist",
        f"git archive --prefix={bundle}/ -o /app/dist/{bundle}.tar.gz v{new}",
        f"cd /app/dist && sha256sum {bundle}.tar.gz > SHA256SUMS",
        "sha256sum -c SHA256SUMS",
    )


def _wrong(tool: str, old: str, new: str, bundle: str) -> tuple[str, ...]:
    return (
        f'cd /app/repo && sed -i \'s/"{old}"/"{new}"/\' {tool}.c',
        f"printf '# {new}\\n\\n' > CHANGELOG.md",
        "make -s check",
        "git add -A",
        f"git commit -q -m 'Release {new}'",
        f"git tag v{new}",
        "mkdir -p /app/dist",
        f"tar -czf /app/dist/{bundle}.tar.gz -C /app repo",
        f"cd /app && sha256sum dist/{bundle}.tar.gz > dist/SHA256SUMS",
    )


def _check(tool: str, new: str, bundle: str, changelog: str, source: str) -> str:
    return f"""
import hashlib, tarfile
def git(*words):
    return output("git", "-c", "safe.directory=*", "-C", "/app/repo", *words)[1].strip()

demand(git("log", "-1", "--format=%s", "main") == "Release {new}", "another message")
demand(git("rev-parse", "v{new}^{{commit}}") == git("rev-parse", "main"), "the tag is elsewhere")
demand(git("status", "--short") == "", "there are uncommitted changes")
listed = sorted(git("ls-tree", "--name-only", "main").split())
wanted = [".gitignore", "CHANGELOG.md", "Makefile", "{tool}.c", "notes.txt"]
demand(listed == sorted(wanted), "other files in the commit")
demand(git("show", "main:CHANGELOG.md") == {changelog!r}, "another CHANGELOG.md")
demand(git("show", "main:{tool}.c") == {source!r}, "another {tool}.c")
demand(output("make", "-s", "check", cwd="/app/repo")[0] == 0, "make check fails")
try:
    raw = open("/app/dist/{bundle}.tar.gz", "rb").read()
    with tarfile.open("/app/dist/{bundle}.tar.gz", "r:gz") as archive:
        found = sorted(one.name for one in archive if one.isfile())
except (OSError, tarfile.TarError) as error:
    fail(str(error))
demand(found == sorted("{bundle}/" + one for one in listed), "other files in the archive")
same("/app/dist/SHA256SUMS", hashlib.sha256(raw).hexdigest() + "  {bundle}.tar.gz")
"""
