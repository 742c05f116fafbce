"""Families about files, folders and permissions."""

import random

from envs.terminal_bench.own.drawing import names, sentence
from envs.terminal_bench.own.family import Family, Made


def _make_executable(rng: random.Random) -> Made:
    script, output = rng.sample(("report", "export", "collect", "summary", "digest"), 2)
    folder = names(rng, 1)[0]
    number = rng.randint(1000, 9999)
    return Made(
        instruction=f"/app/bin/{script}.sh does not run when it is called by its path. Make it run "
        f"so that it writes its result, then copy the result to /app/{output}.txt. Do not change "
        f"what the script prints.",
        files={
            f"bin/{script}.sh": f"#!/bin/bsh\nset -e\nmkdir -p /app/{folder}\n"
            f"echo result $(({number} * 3)) > /app/{folder}/out.txt\n"
        },
        oracle=(
            f"cat /app/bin/{script}.sh",
            f"sed -i '1s|.*|#!/bin/bash|' /app/bin/{script}.sh",
            f"chmod +x /app/bin/{script}.sh",
            f"/app/bin/{script}.sh",
            f"cp /app/{folder}/out.txt /app/{output}.txt",
        ),
        wrong=(
            f"cat /app/bin/{script}.sh",
            f"bash /app/bin/{script}.sh",
            f"cp /app/{folder}/out.txt /app/{output}.txt",
        ),
        check=f"""
same("/app/{output}.txt", "result {number * 3}")
os.remove("/app/{folder}/out.txt")
demand(os.access("/app/bin/{script}.sh", os.X_OK), "the script is not executable")
try:
    code, said = output("/app/bin/{script}.sh")
except OSError as error:
    fail(str(error))
demand(code == 0, "the script fails")
same("/app/{folder}/out.txt", "result {number * 3}")
""",
    )


def _collect_by_suffix(rng: random.Random) -> Made:
    suffix, other_suffix = rng.sample(("log", "txt", "cfg", "dat"), 2)
    target = rng.choice(("collected", "gathered", "all"))
    files = {}
    contents = {}
    for place in range(rng.randint(5, 9)):
        parts = names(rng, rng.randint(1, 3))
        path = "/".join(("in", *parts, f"item{place}.{suffix}"))
        files[path] = sentence(rng, 4) + "\n"
        contents["_".join((*parts, f"item{place}.{suffix}"))] = files[path]
        files["/".join(("in", *parts, f"item{place}.{other_suffix}"))] = "other\n"
    return Made(
        instruction=f"Below /app/in are files in nested folders. Copy every file that ends in "
        f".{suffix} into the one folder /app/{target}. Its name there is its path below /app/in, "
        f"with every / replaced by _ (in/a/b/x.{suffix} becomes a_b_x.{suffix}). Leave /app/in as "
        f"it is, and put nothing else into the folder.",
        files=files,
        oracle=(
            f"find in -name '*.{suffix}' | sort",
            f"mkdir -p /app/{target}",
            f"cd /app/in && find . -name '*.{suffix}' | while read -r path; do\n"
            f'  cp "$path" /app/{target}/"$(echo "${{path#./}}" | tr / _)"\ndone',
            f"ls /app/{target} | wc -l",
        ),
        wrong=(
            f"mkdir -p /app/{target}",
            f"find /app/in -name '*.{suffix}' -exec cp {{}} /app/{target}/ \\;",
        ),
        check=f"""
wanted = {contents!r}
demand(os.path.isdir("/app/{target}"), "there is no folder {target}")
demand(sorted(os.listdir("/app/{target}")) == sorted(wanted), "other names than asked for")
for name, content in wanted.items():
    same("/app/{target}/" + name, content)
for path in {sorted(files)!r}:
    demand(os.path.isfile("/app/" + path), path + " is gone")
""",
    )


def _tidy_modes(rng: random.Random) -> Made:
    folder = names(rng, 1)[0]
    inner = names(rng, 3)
    files = {}
    setup = []
    for place, part in enumerate(inner):
        path = f"{folder}/{part}/file{place}.txt"
        files[path] = sentence(rng, 3) + "\n"
        setup.append(f"chmod {rng.choice(('666', '777', '622'))} {path}")
        setup.append(f"chmod {rng.choice(('777', '733'))} {folder}/{part}")
    files[f"{folder}/run.sh"] = "#!/bin/bash\necho ok\n"
    setup.append(f"chmod 777 {folder}/run.sh {folder}")
    return Made(
        instruction=f"Tighten the permissions below /app/{folder}, that folder included: folders "
        f"get mode 750, scripts that end in .sh get 750, all other files 640. Then write the "
        f"number of files (not folders) below it to /app/count.txt.",
        files=files,
        setup="\n".join(setup),
        oracle=(
            f"ls -R /app/{folder}",
            f"find /app/{folder} -type f ! -name '*.sh' -exec chmod 640 {{}} +",
            f"find /app/{folder} -type f -name '*.sh' -exec chmod 750 {{}} +",
            f"find /app/{folder} -type d -exec chmod 750 {{}} +",
            f"find /app/{folder} -type f | wc -l > /app/count.txt",
        ),
        wrong=(
            f"chmod -R 750 /app/{folder}",
            f"find /app/{folder} -type f | wc -l > /app/count.txt",
        ),
        check=f"""
for place, folders, files in os.walk("/app/{folder}"):
    demand(os.stat(place).st_mode & 0o777 == 0o750, place + " has another mode")
    for name in files:
        path = place + "/" + name
        wanted = 0o750 if name.endswith(".sh") else 0o640
        demand(os.stat(path).st_mode & 0o777 == wanted, path + " has another mode")
same("/app/count.txt", "{len(files)}")
""",
    )


def _repair_links(rng: random.Random) -> Made:
    old, new = names(rng, 2)
    items = names(rng, rng.randint(4, 7))
    broken_links = sorted(rng.sample(items, len(items) - 1))
    files = {f"{new}/{item}.conf": f"{item} {rng.randint(1, 99)}\n" for item in items}
    setup = ["mkdir links"]
    for item in items:
        target = old if item in broken_links else new
        setup.append(f"ln -s /app/{target}/{item}.conf links/{item}")
    return Made(
        instruction=f"The folder /app/{old} was renamed to /app/{new}, so that symbolic links in "
        f"/app/links are broken. Make every broken link point to the same file in /app/{new} (they "
        f"stay symbolic links), and write the names of the links that were broken to "
        f"/app/repaired.txt, one a line, sorted.",
        files=files,
        setup="\n".join(setup),
        oracle=(
            "find /app/links -xtype l",
            "find /app/links -xtype l -printf '%f\\n' | sort > /app/repaired.txt",
            f"for link in $(cat /app/repaired.txt); do\n"
            f'  ln -sfn /app/{new}/"$link".conf /app/links/"$link"\ndone',
            "find /app/links -xtype l | wc -l",
        ),
        wrong=(
            "find /app/links -xtype l",
            f"for item in /app/{new}/*.conf; do\n"
            '  cp --remove-destination "$item" /app/links/$(basename "$item" .conf)\ndone',
            "ls /app/links | sort > /app/repaired.txt",
        ),
        check=f"""
same("/app/repaired.txt", {chr(10).join(broken_links)!r})
for item in {items!r}:
    link = "/app/links/" + item
    demand(os.path.islink(link), link + " is no symbolic link")
    demand(os.path.realpath(link) == "/app/{new}/" + item + ".conf", link + " leads elsewhere")
""",
    )


FAMILIES = (
    Family("make-executable", "permissions", "easy", "train", _make_executable),
    Family("collect-by-suffix", "files", "medium", "calibration", _collect_by_suffix),
    Family("tidy-modes", "permissions", "easy", "train", _tidy_modes),
    Family("repair-links", "files", "medium", "test", _repair_links),
)
