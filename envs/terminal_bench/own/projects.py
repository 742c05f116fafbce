"""Families of long tasks, each of many steps in several tools."""

import random

from envs.terminal_bench.own.drawing import name, names, people, sentence
from envs.terminal_bench.own.family import Family, Made
from envs.terminal_bench.own.services import WAIT_FOR_PORT

_GIT = """
export GIT_AUTHOR_DATE='2023-03-01T10:00:00Z' GIT_COMMITTER_DATE='2023-03-01T10:00:00Z'
export GIT_AUTHOR_NAME=ada GIT_AUTHOR_EMAIL=ada@example.org
export GIT_COMMITTER_NAME=ada GIT_COMMITTER_EMAIL=ada@example.org
"""


def _cut_release(rng: random.Random) -> Made:
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
    makefile = f"{tool}: {tool}.c\n\tgcc -Wall -o $@ $<\n\ncheck: {tool}\n\ttest $$(./{tool} 3) = {3 * factor}\n"
    commits = "\n".join(
        f"echo '{subject}' >> notes.txt; git add . && git commit -q -m '{subject}'"
        for subject in subjects
    )
    changes = "\n".join(f"- {subject}" for subject in subjects)
    changelog = f"# {new}\n\n{changes}\n\n# {old}\n\n- First release\n"
    packed = f"{tool}-{new}"
    return Made(
        instruction=f"Release version {new} of the program in the git repository /app/repo.\n"
        f"1. Set VERSION in {tool}.c to {new}.\n"
        f"2. Put a section `# {new}` on top of CHANGELOG.md, followed by an empty line, one line "
        f"`- SUBJECT` for every commit since the tag v{old}, the oldest first, and an empty line.\n"
        f"3. `make check` must pass; {tool} itself must not be committed: name it in .gitignore.\n"
        f"4. Commit all of this on main as 'Release {new}' and tag the commit v{new}.\n"
        f"5. Write /app/dist/{packed}.tar.gz with the files of the commit below {packed}/, and its "
        f"SHA-256 sum in the form of sha256sum to /app/dist/SHA256SUMS, with the bare file name.",
        files={
            f"repo/{tool}.c": source,
            "repo/Makefile": makefile,
            "repo/CHANGELOG.md": f"# {old}\n\n- First release\n",
        },
        setup=f"cd repo\n{_GIT}\ngit init -q -b main . && git add . && git commit -q -m start\n"
        f"git tag v{old}\n{commits}",
        oracle=(
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
            f"git archive --prefix={packed}/ -o /app/dist/{packed}.tar.gz v{new}",
            f"cd /app/dist && sha256sum {packed}.tar.gz > SHA256SUMS",
            "sha256sum -c SHA256SUMS",
        ),
        wrong=(
            f'cd /app/repo && sed -i \'s/"{old}"/"{new}"/\' {tool}.c',
            f"printf '# {new}\\n\\n' > CHANGELOG.md",
            "make -s check",
            "git add -A",
            f"git commit -q -m 'Release {new}'",
            f"git tag v{new}",
            "mkdir -p /app/dist",
            f"tar -czf /app/dist/{packed}.tar.gz -C /app repo",
            f"cd /app && sha256sum dist/{packed}.tar.gz > dist/SHA256SUMS",
        ),
        check=f"""
import hashlib, tarfile
def git(*words):
    return output("git", "-c", "safe.directory=*", "-C", "/app/repo", *words)[1].strip()

demand(git("log", "-1", "--format=%s", "main") == "Release {new}", "another message")
demand(git("rev-parse", "v{new}^{{commit}}") == git("rev-parse", "main"), "the tag is elsewhere")
demand(git("status", "--short") == "", "there are uncommitted changes")
listed = sorted(git("ls-tree", "--name-only", "main").split())
wanted = [".gitignore", "CHANGELOG.md", "Makefile", "{tool}.c", "notes.txt"]
demand(listed == sorted(wanted), "other files in the commit")
demand(git("show", "main:CHANGELOG.md") == {changelog.strip()!r}, "another CHANGELOG.md")
demand(git("show", "main:{tool}.c") == {source.replace(old, new).strip()!r}, "another {tool}.c")
demand(output("make", "-s", "check", cwd="/app/repo")[0] == 0, "make check fails")
try:
    raw = open("/app/dist/{packed}.tar.gz", "rb").read()
    with tarfile.open("/app/dist/{packed}.tar.gz", "r:gz") as archive:
        found = sorted(one.name for one in archive if one.isfile())
except (OSError, tarfile.TarError) as error:
    fail(str(error))
demand(found == sorted("{packed}/" + one for one in listed), "other files in the archive")
same("/app/dist/SHA256SUMS", hashlib.sha256(raw).hexdigest() + "  {packed}.tar.gz")
""",
    )


def _monthly_accounts(rng: random.Random) -> Made:
    clients = people(rng, 5)
    months = ("2023-01", "2023-02", "2023-03")
    files: dict[str, str | bytes] = {}
    totals = dict.fromkeys(clients, 0)
    rejected = []
    rows = 0
    for month in months:
        lines = ["client;day;cents"]
        for number in range(rng.randint(12, 18)):
            client = rng.choice(clients)
            cents = rng.randint(100, 90_000)
            line = f"{client};{month}-{rng.randint(1, 28):02};{cents}"
            if number == 5:
                line = f"{client};{month}-{rng.randint(1, 28):02};n/a"
                rejected.append(line)
            else:
                totals[client] += cents
                rows += 1
            lines.append(line)
        files[f"in/{month}.csv"] = "\r\n".join(lines) + "\r\n"
    table = names(rng, 1)[0]
    sums = {client: total for client, total in totals.items() if total}
    ranked = sorted(((total, client) for client, total in sums.items()), reverse=True)
    report = "\n".join(f"{client},{total / 100:.2f}" for total, client in ranked)
    setup = "cd in && gzip -n 2023-02.csv && tar -cf more.tar 2023-03.csv && rm 2023-03.csv"
    return Made(
        instruction=f"In /app/in are accounts of three months (client;day;cents, with a header, lines "
        f"end in CR LF): one file as it is, one compressed, one in an archive.\n"
        f"1. Put the three as plain files YYYY-MM.csv with LF into /app/work; /app/in stays.\n"
        f"2. Write the lines whose cents are no whole number to /app/rejected.txt, sorted.\n"
        f"3. Load all others into the table {table}(client text, day text, cents integer) of the "
        f"SQLite database /app/accounts.db.\n"
        f"4. Write /app/report.csv with `client,total` in whole currency with two decimals, the largest "
        f"first, without a header.\n"
        f"5. Write /app/summary.json with the keys rows (a number), clients (a number of clients with "
        f"rows) and largest (the name of the first client of the report).",
        files=files,
        setup=setup,
        oracle=(
            "ls /app/in",
            "mkdir -p /app/work",
            "tr -d '\\r' < /app/in/2023-01.csv > /app/work/2023-01.csv",
            "zcat /app/in/2023-02.csv.gz | tr -d '\\r' > /app/work/2023-02.csv",
            "tar -xOf /app/in/more.tar 2023-03.csv | tr -d '\\r' > /app/work/2023-03.csv",
            "wc -l /app/work/*.csv",
            "tail -qn +2 /app/work/*.csv > /tmp/all",
            "grep -vE ';[0-9]+$' /tmp/all | sort > /app/rejected.txt",
            "grep -E ';[0-9]+$' /tmp/all > /tmp/good",
            f"sqlite3 /app/accounts.db 'drop table if exists {table}; create table {table}(client text, day text, cents integer)'",
            f"sqlite3 /app/accounts.db -cmd '.separator ;' '.import /tmp/good {table}'",
            f"sqlite3 /app/accounts.db 'select count(*) from {table}'",
            f"cat > /tmp/report.sql <<'END'\nselect client || ',' || printf('%.2f', sum(cents) / 100.0) from {table} "
            "group by client order by sum(cents) desc;\nEND",
            "sqlite3 /app/accounts.db < /tmp/report.sql > /app/report.csv",
            "cat /app/report.csv",
            "rows=$(wc -l < /tmp/good); clients=$(wc -l < /app/report.csv); largest=$(head -n 1 /app/report.csv | cut -d, -f1)",
            'printf \'{"rows": %d, "clients": %d, "largest": "%s"}\\n\' "$rows" "$clients" "$largest" > /app/summary.json',
            "python3 -m json.tool /app/summary.json",
        ),
        wrong=(
            "mkdir -p /app/work",
            "cp /app/in/2023-01.csv /app/work/; zcat /app/in/2023-02.csv.gz > /app/work/2023-02.csv",
            "tar -xf /app/in/more.tar -C /app/work",
            "tail -qn +2 /app/work/*.csv > /tmp/all",
            "grep -v 'n/a' /tmp/all > /tmp/good; grep 'n/a' /tmp/all > /app/rejected.txt",
            f"sqlite3 /app/accounts.db 'create table {table}(client text, day text, cents integer)'",
            f"sqlite3 /app/accounts.db -cmd '.separator ;' '.import /tmp/good {table}'",
            f"sqlite3 /app/accounts.db 'select client, sum(cents) from {table} group by client' > /app/report.csv",
            "echo '{}' > /app/summary.json",
        ),
        check=f"""
import sqlite3
for month in {months!r}:
    demand(text("/app/work/" + month + ".csv").startswith("client;day;cents\\n"), month + " is not there")
    demand("\\r" not in text("/app/work/" + month + ".csv"), month + " has CR")
demand(sorted(os.listdir("/app/in")) == ["2023-01.csv", "2023-02.csv.gz", "more.tar"], "/app/in was changed")
same("/app/rejected.txt", {chr(10).join(sorted(rejected))!r})
try:
    found = dict(sqlite3.connect("/app/accounts.db").execute("select client, sum(cents) from {table} group by client"))
    kinds = {{type(one) for (one,) in sqlite3.connect("/app/accounts.db").execute("select cents from {table}")}}
except sqlite3.Error as error:
    fail(str(error))
demand(found == {sums!r}, "other rows in the table")
demand(kinds == {{int}}, "cents are no whole numbers")
same("/app/report.csv", {report!r})
try:
    summary = json.loads(text("/app/summary.json"))
except ValueError as error:
    fail(str(error))
demand(summary == {{"rows": {rows}, "clients": {len(ranked)}, "largest": {ranked[0][1]!r}}}, "another summary")
""",
    )


def _move_site(rng: random.Random) -> Made:
    site = name(rng)
    port = rng.randint(20000, 40000)
    pages = names(rng, rng.randint(3, 5))
    old_host, new_host = f"old.{site}.example", f"www.{site}.example"
    files: dict[str, str | bytes] = {}
    wanted = {}
    for page in pages:
        body = f"<a href='http://{old_host}/{rng.choice(pages)}.html'>{sentence(rng, 3)}</a>\n"
        files[f"backup/site/{page}.HTML"] = body
        wanted[f"{page}.html"] = body.replace(f"http://{old_host}/", f"http://{new_host}/")
    files["backup/site/.cache/x.tmp"] = "x\n"
    files["backup/site/robots.txt"] = "User-agent: *\n"
    wanted["robots.txt"] = "User-agent: *\n"
    index = "".join(f"<li>{page}.html</li>\n" for page in sorted(pages))
    return Made(
        instruction=f"Bring the site in /app/backup/site.tar back to life.\n"
        f"1. Unpack it to /app/www (the files directly in there) without its hidden folder.\n"
        f"2. Names that end in .HTML end in .html.\n"
        f"3. Links to http://{old_host}/ become links to http://{new_host}/.\n"
        f"4. /app/www/index.html has a line `<li>NAME</li>` for every other .html file, sorted.\n"
        f"5. Folders have mode 755, files 644.\n"
        f"6. Serve /app/www on 127.0.0.1, port {port}, in the background, with the log in "
        f"/app/log/access.log; it goes on after you have finished.\n"
        f"7. /app/crontab has one line that runs /app/rotate.sh every day at 03:30, and /app/rotate.sh, an "
        f"executable script, moves /app/log/access.log to access.log.1 in the same folder.",
        files=files,
        setup="cd backup && tar -cf site.tar site && rm -r site",
        oracle=(
            "tar -tf /app/backup/site.tar | head",
            "mkdir -p /app/www /app/log",
            "tar -xf /app/backup/site.tar -C /app/www --strip-components=1 --exclude=site/.cache",
            "cd /app/www",
            'for page in *.HTML; do [ -e "$page" ] && mv "$page" "${page%.HTML}.html"; done; ls',
            f"grep -l '{old_host}' *.html | wc -l",
            f"sed -i 's#http://{old_host}/#http://{new_host}/#g' *.html",
            'rm -f index.html; for page in *.html; do echo "<li>$page</li>"; done | LC_ALL=C sort > /tmp/index',
            "mv /tmp/index index.html && cat index.html",
            "find /app/www -type d -exec chmod 755 {} +",
            "find /app/www -type f -exec chmod 644 {} +",
            f"nohup python3 -m http.server {port} --bind 127.0.0.1 --directory /app/www > /app/log/access.log 2>&1 &",
            WAIT_FOR_PORT.format(port=port),
            "printf '#!/bin/bash\\nmv /app/log/access.log /app/log/access.log.1\\n' > /app/rotate.sh",
            "chmod +x /app/rotate.sh",
            "echo '30 3 * * * /app/rotate.sh' > /app/crontab",
            "cat /app/crontab",
        ),
        wrong=(
            "mkdir -p /app/www /app/log",
            "tar -xf /app/backup/site.tar -C /app/www --strip-components=1",
            "cd /app/www && ls",
            f"sed -i 's#{old_host}#{new_host}#' *.HTML",
            f"nohup python3 -m http.server {port} --bind 127.0.0.1 > /app/log/access.log 2>&1 &",
            "echo '3 30 * * * /app/rotate.sh' > /app/crontab",
        ),
        service=True,
        check=f"""
import time, urllib.request
wanted = {wanted!r}
wanted["index.html"] = {index!r}
demand(os.path.isdir("/app/www"), "there is no /app/www")
demand(sorted(os.listdir("/app/www")) == sorted(wanted), "other files in /app/www")
for one, content in wanted.items():
    same("/app/www/" + one, content)
    demand(os.stat("/app/www/" + one).st_mode & 0o777 == 0o644, one + " has another mode")
demand(os.stat("/app/www").st_mode & 0o777 == 0o755, "/app/www has another mode")
try:
    page = urllib.request.urlopen("http://127.0.0.1:{port}/{pages[0]}.html", timeout=5).read().decode()
except OSError as error:
    fail("the site does not answer: " + str(error))
demand(page == wanted["{pages[0]}.html"], "another page is served")
time.sleep(0.3)
demand("{pages[0]}" in text("/app/log/access.log"), "requests are not logged")
lines = [line.split() for line in text("/app/crontab").splitlines() if line.strip() and line[0] != "#"]
demand(lines == [["30", "3", "*", "*", "*", "/app/rotate.sh"]], "another crontab")
try:
    demand(output("/app/rotate.sh")[0] == 0, "rotate.sh fails")
except OSError as error:
    fail(str(error))
demand(os.path.exists("/app/log/access.log.1") and not os.path.exists("/app/log/access.log"), "the log was not moved")
""",
    )


FAMILIES = (
    Family("cut-release", "projects", "hard", "train", _cut_release, ("git", "gcc", "make")),
    Family("monthly-accounts", "projects", "hard", "calibration", _monthly_accounts, ("sqlite3",)),
    Family("move-site", "projects", "hard", "test", _move_site),
)
