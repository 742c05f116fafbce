"""The family `move-site`: archives, text, modes, a service and a schedule."""

import random
from collections.abc import Mapping

from envs.terminal_bench.own.drawing import name, names, sentence
from envs.terminal_bench.own.family import Made
from envs.terminal_bench.own.services import WAIT_FOR_PORT


def move_site(rng: random.Random) -> Made:
    """A site in an archive, to be unpacked, corrected, served and looked after."""
    site = name(rng)
    port = rng.randint(20000, 40000)
    pages = names(rng, rng.randint(3, 5))
    old_host, new_host = f"old.{site}.example", f"www.{site}.example"
    files: dict[str, str | bytes] = {}
    contents = {}
    for page in pages:
        body = f"<a href='http://{old_host}/{rng.choice(pages)}.html'>{sentence(rng, 3)}</a>\n"
        files[f"backup/site/{page}.HTML"] = body
        contents[f"{page}.html"] = body.replace(f"http://{old_host}/", f"http://{new_host}/")
    files["backup/site/.cache/x.tmp"] = "x\n"
    files["backup/site/robots.txt"] = "User-agent: *\n"
    contents["robots.txt"] = "User-agent: *\n"
    index = "".join(f"<li>{page}.html</li>\n" for page in sorted(pages))
    return Made(
        instruction=_instruction(old_host, new_host, port),
        files=files,
        setup="cd backup && tar -cf site.tar site && rm -r site",
        oracle=_oracle(old_host, new_host, port),
        wrong=_wrong(old_host, new_host, port),
        service=True,
        check=_check(port, pages[0], contents, index),
    )


def _instruction(old_host: str, new_host: str, port: int) -> str:
    return (
        f"Bring the site in /app/backup/site.tar back to life.\n"
        f"1. Unpack it to /app/www (the files directly in there) without its hidden folder.\n"
        f"2. Names that end in .HTML end in .html.\n"
        f"3. Links to http://{old_host}/ become links to http://{new_host}/.\n"
        f"4. /app/www/index.html has a line `<li>NAME</li>` for every other .html file, sorted.\n"
        f"5. Folders have mode 755, files 644.\n"
        f"6. Serve /app/www on 127.0.0.1, port {port}, in the background, with the log in "
        f"/app/log/access.log; it goes on after you have finished.\n"
        f"7. /app/crontab has one line that runs /app/rotate.sh every day at 03:30, and "
        f"/app/rotate.sh, an executable script, moves /app/log/access.log to access.log.1 in the "
        f"same folder."
    )


def _oracle(old_host: str, new_host: str, port: int) -> tuple[str, ...]:
    return (
        "tar -tf /app/backup/site.tar | head",
        "mkdir -p /app/www /app/log",
        "tar -xf /app/backup/site.tar -C /app/www --strip-components=1 --exclude=site/.cache",
        "cd /app/www",
        'for page in *.HTML; do [ -e "$page" ] && mv "$page" "${page%.HTML}.html"; done; ls',
        f"grep -l '{old_host}' *.html | wc -l",
        f"sed -i 's#http://{old_host}/#http://{new_host}/#g' *.html",
        'rm -f index.html; for page in *.html; do echo "<li>$page</li>"; done | LC_ALL=C sort '
        "> /tmp/index",
        "mv /tmp/index index.html && cat index.html",
        "find /app/www -type d -exec chmod 755 {} +",
        "find /app/www -type f -exec chmod 644 {} +",
        f"nohup python3 -m http.server {port} --bind 127.0.0.1 --directory /app/www "
        f"> /app/log/access.log 2>&1 &",
        WAIT_FOR_PORT.format(port=port),
        "printf '#!/bin/bash\\nmv /app/log/access.log /app/log/access.log.1\\n' > /app/rotate.sh",
        "chmod +x /app/rotate.sh",
        "echo '30 3 * * * /app/rotate.sh' > /app/crontab",
        "cat /app/crontab",
    )


def _wrong(old_host: str, new_host: str, port: int) -> tuple[str, ...]:
    return (
        "mkdir -p /app/www /app/log",
        "tar -xf /app/backup/site.tar -C /app/www --strip-components=1",
        "cd /app/www && ls",
        f"sed -i 's#{old_host}#{new_host}#' *.HTML",
        f"nohup python3 -m http.server {port} --bind 127.0.0.1 > /app/log/access.log 2>&1 &",
        "echo '3 30 * * * /app/rotate.sh' > /app/crontab",
    )


def _check(port: int, page: str, contents: Mapping[str, str], index: str) -> str:
    return f"""
import time, urllib.request
wanted = {contents!r}
wanted["index.html"] = {index!r}
demand(os.path.isdir("/app/www"), "there is no /app/www")
demand(sorted(os.listdir("/app/www")) == sorted(wanted), "other files in /app/www")
for one, content in wanted.items():
    same("/app/www/" + one, content)
    demand(os.stat("/app/www/" + one).st_mode & 0o777 == 0o644, one + " has another mode")
demand(os.stat("/app/www").st_mode & 0o777 == 0o755, "/app/www has another mode")
address = "http://127.0.0.1:{port}/{page}.html"
try:
    served = urllib.request.urlopen(address, timeout=5).read().decode()
except OSError as error:
    fail("the site does not answer: " + str(error))
demand(served == wanted["{page}.html"], "another page is served")
time.sleep(0.3)
demand("{page}" in text("/app/log/access.log"), "requests are not logged")
lines = text("/app/crontab").splitlines()
entries = [line.split() for line in lines if line.strip() and line[0] != "#"]
demand(entries == [["30", "3", "*", "*", "*", "/app/rotate.sh"]], "another crontab")
try:
    demand(output("/app/rotate.sh")[0] == 0, "rotate.sh fails")
except OSError as error:
    fail(str(error))
demand(
    os.path.exists("/app/log/access.log.1") and not os.path.exists("/app/log/access.log"),
    "the log was not moved",
)
"""
