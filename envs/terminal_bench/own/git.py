"""Families about git. Commits are made with fixed dates, so that hashes are equal everywhere."""

import random

from envs.terminal_bench.own.drawing import names, people, sentence
from envs.terminal_bench.own.family import Family, Made

_BEGIN = """
export GIT_AUTHOR_DATE='2023-03-01T10:00:00Z' GIT_COMMITTER_DATE='2023-03-01T10:00:00Z'
export GIT_AUTHOR_NAME=ada GIT_AUTHOR_EMAIL=ada@example.org
export GIT_COMMITTER_NAME=ada GIT_COMMITTER_EMAIL=ada@example.org
git init -q -b main /app/repo
cd /app/repo
"""
_REPO = "/app/repo"


def _write(path: str, text: str) -> str:
    return f"cat > {path} <<'END'\n{text.rstrip(chr(10))}\nEND"


def _commit_selected(rng: random.Random) -> Made:
    path, other_path, junk = (f"{part}.txt" for part in names(rng, 3))
    subject = f"Add {sentence(rng, 2)}"
    branch = f"feature-{rng.randint(10, 99)}"
    return Made(
        instruction=f"In the git repository {_REPO} make a branch {branch} and commit there only "
        f"{path}, with the message {subject!r}. {other_path} stays changed and uncommitted, and "
        f"the untracked {junk} is ignored by a rule in .git/info/exclude. The branch main does not "
        f"move, and {branch} stays checked out.",
        setup="\n".join(
            (
                _BEGIN,
                _write(path, "one"),
                _write(other_path, "one"),
                "git add . && git commit -q -m start && git rev-parse HEAD > /app/start.txt",
                _write(path, "two"),
                _write(other_path, "two"),
                _write(junk, "junk"),
            )
        ),
        oracle=(
            f"cd {_REPO} && git status --short",
            f"git checkout -q -b {branch}",
            f"git add {path}",
            f"git commit -q -m '{subject}'",
            f"echo {junk} >> .git/info/exclude",
            "git status --short",
        ),
        wrong=(
            f"cd {_REPO} && git checkout -q -b {branch}",
            f"git commit -q -a -m '{subject}'",
            f"echo {junk} > .gitignore",
        ),
        check=_check_commit(branch, subject, path, other_path, junk),
    )


def _check_commit(branch: str, subject: str, path: str, other_path: str, junk: str) -> str:
    return f"""
def git(*words):
    return output("git", "-c", "safe.directory=*", "-C", "{_REPO}", *words)[1].strip()

demand(git("rev-parse", "--abbrev-ref", "HEAD") == "{branch}", "another branch is checked out")
demand(git("rev-parse", "main") == text("/app/start.txt").strip(), "main has moved")
demand(git("rev-parse", "HEAD~1") == text("/app/start.txt").strip(), "not one commit after main")
demand(git("log", "-1", "--format=%s") == {subject!r}, "another message")
demand(git("show", "--format=", "--name-only", "HEAD") == "{path}", "other files in the commit")
demand(git("status", "--short") == "M {other_path}", "another state of the working tree")
demand(not os.path.exists("{_REPO}/.gitignore"), "there is a .gitignore")
demand(os.path.exists("{_REPO}/{junk}"), "{junk} is gone")
"""


def _diverge(path: str, theirs: str, versions: tuple[str, str, str]) -> str:
    """A file that a branch and main both changed; its versions are at the base, here and there."""
    base, here, there = versions
    return "\n".join(
        (
            _BEGIN,
            _write(path, base),
            "git add . && git commit -q -m base",
            f"git checkout -q -b {theirs}",
            _write(path, there),
            _write("extra.txt", "extra"),
            "git add . && git commit -q -m there",
            "git checkout -q main",
            _write(path, here),
            "git commit -q -a -m here",
        )
    )


def _resolve_conflict(rng: random.Random) -> Made:
    ours, theirs, stem = names(rng, 3)
    numbers = rng.sample(range(10, 99), 4)
    base = f"[{stem}]\nlimit = {numbers[0]}\nname = {ours}\nport = {numbers[1]}\n"
    here = base.replace(f"limit = {numbers[0]}", f"limit = {numbers[2]}")
    there = base.replace(f"limit = {numbers[0]}", f"limit = {numbers[3]}").replace(ours, theirs)
    larger = max(numbers[2], numbers[3])
    answer = base.replace(f"limit = {numbers[0]}", f"limit = {larger}").replace(ours, theirs)
    return Made(
        instruction=f"In {_REPO} merge the branch {theirs} into main. Both changed {stem}.conf: "
        f"of the two values of limit the larger one counts, everything else is as on {theirs}. "
        f"Finish the merge with a merge commit; no marks of the conflict may remain.",
        setup=_diverge(f"{stem}.conf", theirs, (base, here, there)),
        oracle=(
            f"cd {_REPO} && git log --oneline --all | wc -l",
            f"git merge -q {theirs} || true",
            f"cat {stem}.conf",
            f"git checkout -q --theirs {stem}.conf",
            f"sed -i 's/^limit = .*/limit = {larger}/' {stem}.conf",
            f"git add {stem}.conf && git commit -q -m 'Merge {theirs}'",
            "git status --short",
        ),
        wrong=(
            f"cd {_REPO} && git merge -q -X ours {theirs} -m merge || true",
            f"sed -i 's/^limit = .*/limit = {min(numbers[2], numbers[3])}/' {stem}.conf",
            "git commit -q -a -m done",
        ),
        check=_check_merge(stem, theirs, answer),
    )


def _check_merge(stem: str, theirs: str, answer: str) -> str:
    return f"""
def git(*words):
    return output("git", "-c", "safe.directory=*", "-C", "{_REPO}", *words)[1].strip()

same("{_REPO}/{stem}.conf", {answer!r})
demand(git("rev-parse", "--abbrev-ref", "HEAD") == "main", "main is not checked out")
demand(git("status", "--short") == "", "there are uncommitted changes")
demand(len(git("log", "-1", "--format=%P").split()) == 2, "the last commit is no merge")
demand(git("merge-base", "--is-ancestor", "{theirs}", "main") == "", "not merged")
demand(git("show", "main:{stem}.conf") == {answer.strip()!r}, "the commit has another file")
demand(os.path.exists("{_REPO}/extra.txt"), "extra.txt is missing")
"""


def _first_bad_commit(rng: random.Random) -> Made:
    count = rng.randint(9, 14)
    bad = rng.randint(3, count - 2)
    steps = []
    for number in range(1, count + 1):
        rate = 3 if number < bad else 4
        steps.append(_write("rate.sh", f"# {number} {sentence(rng, 2)}\necho $(( $1 * {rate} ))"))
        steps.append(f"git add . && git commit -q -m 'Step {number}'")
    return Made(
        instruction=f"`bash rate.sh 5` in {_REPO} should print 15. In the first commit it did; at "
        f"some commit it broke. Write the full hash of the first commit in which it prints "
        f"something else to /app/bad.txt, then repair rate.sh on main with one more commit.",
        setup="\n".join((_BEGIN, *steps)),
        oracle=(
            f"cd {_REPO} && git log --oneline | wc -l",
            "git bisect start HEAD $(git rev-list --max-parents=0 HEAD) > /dev/null 2>&1",
            "git bisect run sh -c '[ $(bash rate.sh 5) = 15 ]' > /dev/null 2>&1",
            "git rev-parse refs/bisect/bad > /app/bad.txt",
            "git bisect reset > /dev/null 2>&1; git checkout -q main",
            "sed -i 's/\\* 4/* 3/' rate.sh && bash rate.sh 5",
            "git commit -q -a -m 'Repair the rate'",
        ),
        wrong=(
            f"cd {_REPO} && git rev-parse HEAD > /app/bad.txt",
            "sed -i 's/\\* 4/* 3/' rate.sh",
            "git commit -q -a -m 'Repair the rate'",
        ),
        check=f"""
def git(*words):
    return output("git", "-c", "safe.directory=*", "-C", "{_REPO}", *words)[1].strip()

commits = git("rev-list", "--reverse", "main").split()
demand(len(commits) == {count + 1}, "not one more commit on main")
demand(text("/app/bad.txt").strip() == commits[{bad - 1}], "another commit is the first bad one")
demand(output("bash", "{_REPO}/rate.sh", "5")[1].strip() == "15", "rate.sh is not repaired")
demand(output("bash", "{_REPO}/rate.sh", "7")[1].strip() == "21", "rate.sh is not repaired")
demand(git("status", "--short") == "", "there are uncommitted changes")
""",
    )


def _recover_deleted(rng: random.Random) -> Made:
    path, other_path = (f"{part}.md" for part in names(rng, 2))
    content = sentence(rng, 6)
    later = rng.randint(2, 4)
    steps = [
        _write(path, "first"),
        _write(other_path, "x"),
        "git add . && git commit -q -m start",
    ]
    steps += [_write(path, content), "git commit -q -a -m 'Better text'"]
    steps += [f"git rm -q {path} && git commit -q -m 'Remove what nobody needs'"]
    for number in range(later):
        steps += [_write(other_path, f"x {number}"), f"git commit -q -a -m 'Edit {number}'"]
    return Made(
        instruction=f"The file {path} was deleted from {_REPO} some commits ago. Bring back its "
        f"last version and commit it on main with the message 'Restore {path}'. Write the subject "
        f"of the commit that deleted it to /app/deleted-by.txt.",
        setup="\n".join((_BEGIN, *steps)),
        oracle=(
            f"cd {_REPO} && git log --diff-filter=D --format=%s -- {path}",
            f"git log --diff-filter=D --format=%s -- {path} > /app/deleted-by.txt",
            f"git checkout -q $(git log --diff-filter=D --format=%H -- {path})~1 -- {path}",
            f"cat {path}",
            f"git commit -q -m 'Restore {path}'",
        ),
        wrong=(
            f"cd {_REPO} && git checkout -q $(git rev-list --max-parents=0 HEAD) -- {path}",
            f"git commit -q -m 'Restore {path}'",
            "git log -1 --format=%s > /app/deleted-by.txt",
        ),
        check=f"""
def git(*words):
    return output("git", "-c", "safe.directory=*", "-C", "{_REPO}", *words)[1].strip()

same("{_REPO}/{path}", {content!r})
same("/app/deleted-by.txt", "Remove what nobody needs")
demand(git("log", "-1", "--format=%s", "main") == "Restore {path}", "another message")
demand(git("show", "main:{path}") == {content!r}, "the commit has another file")
demand(git("status", "--short") == "", "there are uncommitted changes")
""",
    )


def _who_leaked(rng: random.Random) -> Made:
    authors = people(rng, 4)
    secret = f"tok_{rng.randint(10**7, 10**8 - 1)}"
    count = rng.randint(6, 10)
    at = rng.randint(2, count - 2)
    steps = []
    for number in range(count):
        who = authors[number % len(authors)]
        line = f"token = {secret}" if number == at else f"note = {sentence(rng, 2)}"
        name = "settings.ini" if number in (at, at + 1) else f"part{number}.txt"
        steps.append(_write(name, line))
        steps.append(
            f"git add . && GIT_AUTHOR_NAME={who} GIT_AUTHOR_EMAIL={who}@example.org "
            f"git commit -q -m 'Part {number}'"
        )
    return Made(
        instruction=f"The secret {secret} was once committed to {_REPO} and is not in the newest "
        f"version any more. Write to /app/leak.txt, on one line: the name of the author of the "
        f"commit that added it, a space, and the path of the file. Then tag that commit `leak`.",
        setup="\n".join((_BEGIN, *steps)),
        oracle=(
            f"cd {_REPO} && git log -S {secret} --reverse --format='%an %s'",
            f"first=$(git log -S {secret} --reverse --format=%H | head -n 1)",
            'git show --format= --name-only "$first"',
            'echo "$(git log -1 --format=%an $first) $(git show --format= --name-only $first)" '
            "> /app/leak.txt",
            'git tag leak "$first"',
            "cat /app/leak.txt",
        ),
        wrong=(
            f"cd {_REPO} && last=$(git log -S {secret} --format=%H | head -n 1)",
            'echo "$(git log -1 --format=%an $last) $(git show --format= --name-only $last)" '
            "> /app/leak.txt",
            'git tag leak "$last"',
        ),
        check=_check_leak(authors, at),
    )


def _check_leak(authors: list[str], at: int) -> str:
    return f"""
same("/app/leak.txt", "{authors[at % len(authors)]} settings.ini")
log = ("log", "-1", "--format=%s", "leak")
code, said = output("git", "-c", "safe.directory=*", "-C", "{_REPO}", *log)
demand(said.strip() == "Part {at}", "the tag is at another commit")
"""


FAMILIES = (
    Family("commit-selected", "git", "easy", "train", _commit_selected, ("git",)),
    Family("resolve-conflict", "git", "hard", "calibration", _resolve_conflict, ("git",)),
    Family("first-bad-commit", "git", "hard", "train", _first_bad_commit, ("git",)),
    Family("recover-deleted", "git", "medium", "validation", _recover_deleted, ("git",)),
    Family("who-leaked", "git", "medium", "test", _who_leaked, ("git",)),
)
