"""Families about archives, checksums and encoded files."""

import base64
import gzip
import hashlib
import io
import random
import tarfile

from envs.terminal_bench.own.drawing import NOUNS, names, sentence
from envs.terminal_bench.own.family import Family, Made


def _tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """An archive whose bytes depend on the files alone."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0) if mode == "w:gz" else raw.getvalue()


def _nested_archives(rng: random.Random) -> Made:
    outer, inner = names(rng, 2)
    words = names(rng, rng.randint(3, 5))
    notes = {f"{word}.txt": f"{word} {rng.randint(10, 99)}\n" for word in words}
    levels = rng.randint(2, 3)
    content = _tar({name: text.encode() for name, text in notes.items()})
    for level in range(levels):
        content = _tar({f"{inner}{level}.tar.gz": content, f"readme{level}.md": b"nothing\n"})
    total = sum(int(text.split()[1]) for text in notes.values())
    unpack = [f"mkdir -p /tmp/work && tar -xzf /app/{outer}.tar.gz -C /tmp/work && ls /tmp/work"]
    for level in reversed(range(levels)):
        unpack.append(f"tar -xzf /tmp/work/{inner}{level}.tar.gz -C /tmp/work && ls /tmp/work")
    return Made(
        instruction=f"/app/{outer}.tar.gz holds an archive that holds an archive, and so on. Put "
        f"the .txt files of the innermost one into /app/notes (nothing else), and write the sum of "
        f"the numbers in them to /app/total.txt.",
        files={f"{outer}.tar.gz": content},
        oracle=(
            f"tar -tzf /app/{outer}.tar.gz",
            *unpack,
            "mkdir -p /app/notes && cp /tmp/work/*.txt /app/notes/",
            "cat /app/notes/*.txt | awk '{ sum += $2 } END { print sum }' > /app/total.txt",
        ),
        wrong=(
            f"mkdir -p /app/notes && tar -xzf /app/{outer}.tar.gz -C /app/notes",
            "echo 0 > /app/total.txt",
        ),
        check=f"""
notes = {notes!r}
demand(os.path.isdir("/app/notes"), "there is no folder notes")
demand(sorted(os.listdir("/app/notes")) == sorted(notes), "other files than asked for")
for name, content in notes.items():
    same("/app/notes/" + name, content)
same("/app/total.txt", "{total}")
""",
    )


def _pack_selected(rng: random.Random) -> Made:
    project = names(rng, 1)[0]
    files = {}
    for part in names(rng, rng.randint(4, 6)):
        files[f"{project}/src/{part}.py"] = f"# {sentence(rng, 3)}\n"
        files[f"{project}/src/{part}.pyc"] = "compiled\n"
    for part in names(rng, 2):
        files[f"{project}/build/{part}.o"] = "object\n"
        files[f"{project}/docs/{part}.md"] = sentence(rng, 5) + "\n"
    members = sorted(path for path in files if "/build/" not in path and not path.endswith(".pyc"))
    return Made(
        instruction=f"Pack /app/{project} into /app/{project}.tar.gz without the folder build and "
        f"without files that end in .pyc. Paths in the archive begin with {project}/. Then write "
        f"the list of the files in it (not the folders) to /app/list.txt, sorted (LC_ALL=C).",
        files=files,
        oracle=(
            f"find /app/{project} -type f | wc -l",
            f"tar -czf /app/{project}.tar.gz -C /app --exclude='*.pyc' --exclude={project}/build "
            f"{project}",
            f"tar -tzf /app/{project}.tar.gz | grep -v '/$' | LC_ALL=C sort > /app/list.txt",
            "cat /app/list.txt",
        ),
        wrong=(
            f"tar -czf /app/{project}.tar.gz -C /app/{project} --exclude='*.pyc' src docs",
            f"tar -tzf /app/{project}.tar.gz | grep -v '/$' | LC_ALL=C sort > /app/list.txt",
        ),
        check=f"""
import tarfile
try:
    with tarfile.open("/app/{project}.tar.gz", "r:gz") as archive:
        found = sorted(one.name for one in archive if one.isfile())
        files = {{name: archive.extractfile(name).read().decode() for name in found}}
except (OSError, tarfile.TarError) as error:
    fail(str(error))
demand(found == {members!r}, "other files in the archive")
same("/app/list.txt", "\\n".join(found))
for name, content in files.items():
    same("/app/" + name, content)
""",
    )


def _rotated_logs(rng: random.Random) -> Made:
    files: dict[str, str | bytes] = {}
    code = rng.choice(("E17", "E42", "W09", "E301"))
    service = names(rng, 1)[0]
    counts = {}
    for number in range(rng.randint(4, 6)):
        lines = []
        hits = rng.randint(0, 12)
        for place in range(rng.randint(20, 30)):
            label = code if place < hits else rng.choice(("I00", "I01", code + "0"))
            lines.append(f"{label} {sentence(rng, 3)}")
        rng.shuffle(lines)
        raw = ("\n".join(lines) + "\n").encode()
        name = f"{service}.log" if number == 0 else f"{service}.log.{number}"
        if number > 1:
            files[f"logs/{name}.gz"] = gzip.compress(raw, mtime=0)
            counts[f"{name}.gz"] = hits
        else:
            files[f"logs/{name}"] = raw
            counts[name] = hits
    answer = "\n".join(f"{name} {counts[name]}" for name in sorted(counts))
    return Made(
        instruction=f"In /app/logs are {service}.log and its older parts, some compressed with "
        f"gzip. Count in each file the lines that begin with the code {code} (and no longer code). "
        f"Write `NAME COUNT` for every file, those without any included, to /app/counts.txt, "
        f"sorted by name (LC_ALL=C). Leave the files as they are.",
        files=files,
        oracle=(
            "ls /app/logs",
            f"zcat -f /app/logs/{service}.log | head -n 2",
            "cd /app/logs\nfor name in *; do\n"
            f'  echo "$name $(zcat -f "$name" | grep -c "^{code} ")"\n'
            "done | LC_ALL=C sort > /app/counts.txt",
            "cat /app/counts.txt",
        ),
        wrong=(f"cd /app/logs && gunzip *.gz && grep -c '^{code}' * | tr : ' ' > /app/counts.txt",),
        check=_check_counts(counts, answer),
    )


def _check_counts(counts: dict[str, int], answer: str) -> str:
    return f"""
same("/app/counts.txt", {answer!r})
demand(sorted(os.listdir("/app/logs")) == {sorted(counts)!r}, "the logs were changed")
"""


def _verify_checksums(rng: random.Random) -> Made:
    files: dict[str, str | bytes] = {}
    sums = []
    damaged = []
    good = {}
    for number, part in enumerate(names(rng, rng.randint(6, 9))):
        path = f"{part}.dat"
        content = f"{sentence(rng, 6)} {number}\n"
        good[path] = content
        sums.append(f"{hashlib.sha256(content.encode()).hexdigest()}  {path}")
        files[f"backup/{path}"] = content
        files[f"data/{path}"] = content
    damaged = sorted(rng.sample(sorted(good), rng.randint(2, 3)))
    lost_path = damaged[0]
    for path in damaged:
        files[f"data/{path}"] = good[path].replace(" ", "_", 1)
    del files[f"data/{lost_path}"]
    files["data/SHA256SUMS"] = "\n".join(sums) + "\n"
    return Made(
        instruction="Check the files of /app/data against /app/data/SHA256SUMS. Restore those that "
        "are damaged or missing from /app/backup, and only those. Write their names to "
        "/app/restored.txt, sorted, one a line.",
        files=files,
        oracle=(
            "cd /app/data && sha256sum --quiet -c SHA256SUMS 2>&1 || true",
            "cd /app/data && sha256sum -c SHA256SUMS 2> /dev/null | grep FAILED | cut -d: -f1 "
            "| sort > /app/restored.txt",
            "for name in $(cat /app/restored.txt); do cp /app/backup/$name /app/data/; done",
            "cd /app/data && sha256sum --quiet -c SHA256SUMS && echo fine",
        ),
        wrong=(
            "cd /app/data && sha256sum -c SHA256SUMS 2> /dev/null | grep -v OK | cut -d: -f1 "
            "| sort | head -n 1 > /app/restored.txt",
            "for name in $(cat /app/restored.txt); do cp /app/backup/$name /app/data/; done",
        ),
        check=_check_restored(good, damaged),
    )


def _check_restored(good: dict[str, str], damaged: list[str]) -> str:
    return f"""
good = {good!r}
for path, content in good.items():
    same("/app/data/" + path, content)
same("/app/restored.txt", {chr(10).join(damaged)!r})
"""


def _join_parts(rng: random.Random) -> Made:
    text = "\n".join(sentence(rng, 8) for _ in range(rng.randint(12, 20))) + "\n"
    coded = base64.encodebytes(text.encode()).decode()
    count = rng.randint(3, 6)
    size = len(coded) // count + 1
    order = rng.sample(NOUNS, count)
    files = {f"parts/{word}.b64": coded[n * size : (n + 1) * size] for n, word in enumerate(order)}
    files["parts/ORDER"] = "\n".join(f"{n + 1} {word}" for n, word in enumerate(order)) + "\n"
    digest = hashlib.md5(text.encode()).hexdigest()
    return Made(
        instruction=f"A text was encoded with base64 and cut into the files of /app/parts; "
        f"ORDER says in which order they belong. Put it together again as /app/text.txt (its md5 "
        f"sum is {digest}), and write the number of its lines to /app/lines.txt.",
        files=files,
        oracle=(
            "cat /app/parts/ORDER",
            "for word in $(sort -n /app/parts/ORDER | cut -d' ' -f2); do\n"
            "  cat /app/parts/$word.b64\ndone > /tmp/coded",
            "base64 -d /tmp/coded > /app/text.txt",
            "md5sum /app/text.txt",
            "wc -l < /app/text.txt > /app/lines.txt",
        ),
        wrong=(
            "for part in /app/parts/*.b64; do base64 -d -i $part; done > /app/text.txt "
            "2> /dev/null",
            "wc -l < /app/text.txt > /app/lines.txt",
        ),
        check=f"same('/app/text.txt', {text!r})\nsame('/app/lines.txt', '{text.count(chr(10))}')",
    )


FAMILIES = (
    Family("nested-archives", "archives", "medium", "train", _nested_archives),
    Family("pack-selected", "archives", "easy", "test", _pack_selected),
    Family("rotated-logs", "logs", "medium", "train", _rotated_logs),
    Family("verify-checksums", "files", "medium", "calibration", _verify_checksums),
    Family("join-parts", "encodings", "medium", "validation", _join_parts),
)
