"""Families about many files at once: names, sizes, copies."""

import random

from envs.terminal_bench.own.drawing import ADJECTIVES, names, sentence
from envs.terminal_bench.own.family import Family, Made


def _plain_names(rng: random.Random) -> Made:
    folder = names(rng, 1)[0]
    files = {}
    contents = {}
    for number in range(rng.randint(5, 9)):
        words = [rng.choice(ADJECTIVES).capitalize(), names(rng, 1)[0].upper(), str(number)]
        old_name = " ".join(words) + rng.choice((".TXT", ".Md", ".txt"))
        files[f"{folder}/{old_name}"] = sentence(rng, 3) + "\n"
        contents[old_name.lower().replace(" ", "_")] = files[f"{folder}/{old_name}"]
    return Made(
        instruction=f"Rename the files in /app/{folder}: small letters only, every space becomes "
        f"an underscore. Their contents stay. Then write the new names to /app/names.txt, sorted "
        f"(as LC_ALL=C sorts), one a line.",
        files=files,
        setup=f"ls {folder} > /dev/null",
        oracle=(
            f"ls /app/{folder}",
            f"cd /app/{folder}\nfor old in *; do\n"
            "  new=$(echo \"$old\" | tr 'A-Z ' 'a-z_')\n"
            '  [ "$old" = "$new" ] || mv -- "$old" "$new"\ndone',
            f"ls /app/{folder} | LC_ALL=C sort > /app/names.txt",
            "cat /app/names.txt",
        ),
        wrong=(
            f"cd /app/{folder}\nfor old in *; do\n"
            '  mv -- "$old" "$(echo "$old" | tr \' \' _)"\ndone',
            f"ls /app/{folder} | LC_ALL=C sort > /app/names.txt",
        ),
        check=f"""
wanted = {contents!r}
demand(sorted(os.listdir("/app/{folder}")) == sorted(wanted), "other names than asked for")
for name, content in wanted.items():
    same("/app/{folder}/" + name, content)
same("/app/names.txt", "\\n".join(sorted(wanted)))
""",
    )


def _large_files(rng: random.Random) -> Made:
    limit = rng.randint(2000, 4000)
    files = {}
    sizes = {}
    for number, part in enumerate(names(rng, rng.randint(8, 12))):
        path = f"store/{part}/f{number}.bin" if number % 2 else f"store/{part}.bin"
        size = rng.choice((limit - rng.randint(1, 900), limit, limit + rng.randint(1, 5000)))
        files[path] = "x" * size
        sizes[path] = size
    large = sorted((path for path in sizes if sizes[path] > limit), key=lambda p: (-sizes[p], p))
    if not large:
        files["store/big.bin"] = "x" * (limit + 7)
        sizes["store/big.bin"] = limit + 7
        large = ["store/big.bin"]
    while len({sizes[path] for path in large}) < len(large):
        path = large[-1]
        sizes[path] += len(large) + rng.randint(1, 50)
        files[path] = "x" * sizes[path]
        large = sorted(large, key=lambda p: (-sizes[p], p))
    answer = "\n".join(f"{sizes[path]} /app/{path}" for path in large)
    return Made(
        instruction=f"Find the files below /app/store that are larger than {limit} bytes. Write "
        f"them to /app/large.txt as `SIZE PATH` (bytes, absolute path), the largest first. Then "
        f"compress each of them with gzip, in its place.",
        files=files,
        oracle=(
            f"find /app/store -type f -size +{limit}c",
            f"find /app/store -type f -size +{limit}c -printf '%s %p\\n' | sort -rn "
            f"> /app/large.txt",
            "cut -d' ' -f2 /app/large.txt | xargs gzip -f",
            "find /app/store -name '*.gz' | wc -l",
        ),
        wrong=(
            f"find /app/store -type f -size +{limit}c -printf '%s %p\\n' | sort > /app/large.txt",
            "gzip -r /app/store",
        ),
        check=_check_large(sizes, large, answer),
    )


def _check_large(sizes: dict[str, int], large: list[str], answer: str) -> str:
    return f"""
import gzip
same("/app/large.txt", {answer!r})
sizes = {sizes!r}
large = {large!r}
for path, size in sizes.items():
    path = "/app/" + path
    if path[5:] in large:
        demand(not os.path.exists(path), path + " is still there")
        demand(os.path.exists(path + ".gz"), path + " was not compressed")
        demand(len(gzip.open(path + ".gz").read()) == size, path + " has another content")
    else:
        demand(os.path.exists(path), path + " is gone")
"""


def _remove_duplicates(rng: random.Random) -> Made:
    files = {}
    first_paths = []
    duplicates = []
    for group, part in enumerate(names(rng, rng.randint(3, 5))):
        content = f"{sentence(rng, 5)} {group}\n"
        paths = sorted(f"pool/{stem}{group}.txt" for stem in (*names(rng, rng.randint(1, 3)), part))
        paths = sorted(set(paths))
        for path in paths:
            files[path] = content
        first_paths.append(paths[0])
        duplicates += paths[1:]
    if not duplicates:
        files["pool/zz.txt"] = files[first_paths[0]]
        duplicates.append("pool/zz.txt")
    answer = "\n".join(sorted(path.removeprefix("pool/") for path in duplicates))
    return Made(
        instruction="Some files in /app/pool have equal contents. Of each such group keep the one "
        "whose name sorts first (LC_ALL=C) and delete the others. Write the names of the deleted "
        "files to /app/removed.txt, sorted, one a line.",
        files=files,
        oracle=(
            "cd /app/pool && LC_ALL=C sha256sum * | head -n 4",
            "cd /app/pool && LC_ALL=C sha256sum * | awk 'seen[$1]++ { print $2 }' "
            "> /app/removed.txt",
            "LC_ALL=C sort -o /app/removed.txt /app/removed.txt",
            "cd /app/pool && xargs rm -f < /app/removed.txt",
            "ls /app/pool | wc -l",
        ),
        wrong=(
            "cd /app/pool && LC_ALL=C sha256sum * | sort -r | awk 'seen[$1]++ { print $2 }' | sort "
            "> /app/removed.txt; echo extra >> /app/removed.txt",
            "cd /app/pool && rm -f $(cat /app/removed.txt)",
        ),
        check=_check_removed(first_paths, answer),
    )


def _check_removed(first_paths: list[str], answer: str) -> str:
    return f"""
same("/app/removed.txt", {answer!r})
demand(
    sorted(os.listdir("/app/pool")) == {sorted(p.removeprefix("pool/") for p in first_paths)!r},
    "other files are left",
)
"""


def _two_folders(
    rng: random.Random, source: str, target: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The files of both, which differ, and those of the source by their paths in it."""
    files = {}
    source_files = {}
    for number, part in enumerate(names(rng, rng.randint(6, 9))):
        path = f"{part}.txt" if number % 3 else f"sub{number}/{part}.txt"
        source_files[path] = sentence(rng, 4) + "\n"
        files[f"{source}/{path}"] = source_files[path]
        fate = number % 3
        if fate == 0:
            files[f"{target}/{path}"] = source_files[path]
        elif fate == 1:
            files[f"{target}/{path}"] = "old\n"
    for part in names(rng, 2):
        files[f"{target}/stale/{part}.txt"] = "stale\n"
    return files, source_files


def _mirror_folder(rng: random.Random) -> Made:
    source, target = rng.sample(("current", "master", "origin", "replica", "backup"), 2)
    files, source_files = _two_folders(rng, source, target)
    protected = "keep.local"
    files[f"{target}/{protected}"] = "local\n"
    return Made(
        instruction=f"Make /app/{target} a mirror of /app/{source}: equal files with equal "
        f"contents, and nothing that is not in /app/{source} (no empty folders either), except "
        f"/app/{target}/{protected}, which stays. Do not change /app/{source}.",
        files=files,
        oracle=(
            f"diff -rq /app/{source} /app/{target} || true",
            f"cp -R /app/{source}/. /app/{target}/",
            f"cd /app/{target} && find . -type f ! -name {protected} | while read -r path; do\n"
            f'  [ -e /app/{source}/"$path" ] || rm -- "$path"\ndone',
            f"find /app/{target} -type d -empty -delete",
            f"diff -rq /app/{source} /app/{target} || true",
        ),
        wrong=(f"cp -R /app/{source}/. /app/{target}/", f"ls -R /app/{target}"),
        check=f"""
wanted = {source_files!r}
wanted["{protected}"] = "local\\n"
found = []
for place, folders, files in os.walk("/app/{target}"):
    demand(files or folders, place + " is an empty folder")
    found += [os.path.relpath(os.path.join(place, one), "/app/{target}") for one in files]
demand(sorted(found) == sorted(wanted), "other files than asked for")
for path, content in wanted.items():
    same("/app/{target}/" + path, content)
    if path != "{protected}":
        same("/app/{source}/" + path, content)
""",
    )


FAMILIES = (
    Family("plain-names", "files", "easy", "train", _plain_names),
    Family("large-files", "files", "medium", "calibration", _large_files),
    Family("remove-duplicates", "files", "medium", "test", _remove_duplicates),
    Family("mirror-folder", "files", "hard", "train", _mirror_folder),
)
