"""Families about compilers and make."""

import random

from envs.terminal_bench.own.drawing import names
from envs.terminal_bench.own.family import Family, Made


def _repair_build(rng: random.Random) -> Made:
    tool, helper = names(rng, 2)
    factor, shift = rng.randint(2, 9), rng.randint(10, 99)
    main = (
        f'#include <stdio.h>\n#include "{helper}s.h"\n\nint main(int argc, char **argv) {{\n'
        f"  int n = argc > 1 ? atoi(argv[1]) : 0;\n"
        f'  printf("%d\\n", {helper}(n)) \n  return 0;\n}}\n'
    )
    return Made(
        instruction=f"The C program in /app/src does not compile. Repair it (the arithmetic in "
        f"{helper}.c is right and stays as it is) and build it as /app/{tool}, without warnings "
        f"under -Wall. Write what `/app/{tool} 7` prints to /app/seven.txt.",
        files={
            f"src/{tool}.c": main,
            f"src/{helper}.h": f"int {helper}(int n);\n",
            f"src/{helper}.c": f'#include "{helper}.h"\n\n'
            f"int {helper}(int n) {{ return n * {factor} + {shift}; }}\n",
        },
        oracle=(
            f"cd /app/src && gcc -Wall -o /app/{tool} {tool}.c {helper}.c 2>&1 | grep error "
            f"| head -n 3",
            f"sed -i 's/{helper}s.h/{helper}.h/' {tool}.c",
            f"sed -i 's/#include <stdio.h>/#include <stdio.h>\\n#include <stdlib.h>/' {tool}.c",
            f"sed -i 's/(n)) *$/(n));/' {tool}.c",
            f"gcc -Wall -Werror -o /app/{tool} {tool}.c {helper}.c",
            f"/app/{tool} 7 > /app/seven.txt && cat /app/seven.txt",
        ),
        wrong=(
            f"printf '#!/bin/bash\\necho %s\\n' {7 * factor + shift} > /app/{tool} "
            f"&& chmod +x /app/{tool}",
            f"/app/{tool} 7 > /app/seven.txt",
        ),
        check=_check_build(tool, helper, factor, shift),
    )


def _check_build(tool: str, helper: str, factor: int, shift: int) -> str:
    return f"""
same("/app/seven.txt", "{7 * factor + shift}")
for n in (0, 3, 12, 1000):
    try:
        code, said = output("/app/{tool}", str(n))
    except OSError as error:
        fail(str(error))
    demand(said.strip() == str(n * {factor} + {shift}), "the program prints something else")
sources = ("{tool}.c", "{helper}.c")
code, said = output("gcc", "-Wall", "-Werror", "-o", "/tmp/again", *sources, cwd="/app/src")
demand(code == 0, "the sources do not compile without warnings")
demand("return n * {factor} + {shift};" in text("/app/src/{helper}.c"), "{helper}.c was changed")
"""


def _repair_makefile(rng: random.Random) -> Made:
    parts = names(rng, rng.randint(3, 4))
    target = rng.choice(("report", "bundle", "page"))
    files = {f"{part}.in": f"{part} {rng.randint(10, 99)}\n" for part in parts}
    outs = " ".join(f"{part}.out" for part in parts)
    files["Makefile"] = (
        f"all: {target}.txt\n\n{target}.txt: {outs.rpartition(' ')[0]}\n"
        f"        cat $^ > $@\n\n%.out: %.in\n        tr a-z A-Z < $< > $@\n\n"
        f"clean:\n        rm -f *.out\n"
    )
    answer = "".join(files[f"{part}.in"].upper() for part in parts)
    return Made(
        instruction=f"`make` in /app fails, and its Makefile has two more faults: {target}.txt has "
        f"to be made of {', '.join(f'{part}.out' for part in parts)}, in this order, and `make "
        f"clean` has to remove {target}.txt too. Repair the Makefile and run make, so that "
        f"/app/{target}.txt is there.",
        files=files,
        oracle=(
            "cd /app && make 2>&1 | head -n 2",
            "sed -i -E 's/^ {8}/\\t/' Makefile",
            f"sed -i 's/^{target}.txt: .*/{target}.txt: {outs}/' Makefile",
            f"sed -i 's/rm -f \\*.out/rm -f *.out {target}.txt/' Makefile",
            "make -s",
            f"cat {target}.txt",
        ),
        wrong=("cd /app && sed -i -E 's/^ {8}/\\t/' Makefile", "make -s"),
        check=_check_makefile(target, parts, answer),
    )


def _check_makefile(target: str, parts: list[str], answer: str) -> str:
    return f"""
same("/app/{target}.txt", {answer!r})
demand(output("make", "-s", "clean", cwd="/app")[0] == 0, "make clean fails")
demand(not os.path.exists("/app/{target}.txt"), "make clean leaves {target}.txt")
demand(
    not [one for one in os.listdir("/app") if one.endswith(".out")],
    "make clean leaves .out files",
)
demand(output("make", "-s", cwd="/app")[0] == 0, "make fails")
same("/app/{target}.txt", {answer!r})
with open("/app/{parts[-1]}.in", "w") as file:
    file.write("changed 1\\n")
os.utime("/app/{parts[-1]}.in", (4e9, 4e9))
output("make", "-s", cwd="/app")
demand("CHANGED 1" in text("/app/{target}.txt"), "a changed input does not make it anew")
"""


def _static_library(rng: random.Random) -> Made:
    library, first, second = names(rng, 3)
    a, b = rng.randint(2, 9), rng.randint(10, 99)
    return Made(
        instruction=f"Make a static library /app/lib/lib{library}.a of /app/src/{first}.c and "
        f"/app/src/{second}.c, and link /app/src/main.c with it to /app/main. Compile with -O1. "
        f"Write the names of the members of the library to /app/members.txt, sorted.",
        files={
            f"src/{first}.c": f"int {first}(int n) {{ return n * {a}; }}\n",
            f"src/{second}.c": f"int {first}(int n);\n"
            f"int {second}(int n) {{ return {first}(n) + {b}; }}\n",
            "src/main.c": f"#include <stdio.h>\n#include <stdlib.h>\nint {second}(int n);\n"
            f'int main(int argc, char **argv) {{ printf("%d\\n", {second}(argc '
            f"> 1 ? atoi(argv[1]) : 0)); return 0; }}\n",
        },
        oracle=(
            "cd /app/src && ls",
            f"gcc -O1 -c {first}.c {second}.c -o /dev/null "
            f"2> /dev/null || gcc -O1 -c {first}.c {second}.c",
            "mkdir -p /app/lib",
            f"ar rcs /app/lib/lib{library}.a {first}.o {second}.o",
            f"gcc -O1 -o /app/main main.c -L/app/lib -l{library}",
            f"ar t /app/lib/lib{library}.a | sort > /app/members.txt",
            "/app/main 3",
        ),
        wrong=(
            f"cd /app/src && gcc -O1 -o /app/main main.c {first}.c {second}.c",
            f"mkdir -p /app/lib && touch /app/lib/lib{library}.a",
            f"printf '%s\\n' {first}.o {second}.o | sort > /app/members.txt",
        ),
        check=_check_library(library, first, second, a, b),
    )


def _check_library(library: str, first: str, second: str, a: int, b: int) -> str:
    return f"""
same("/app/members.txt", {chr(10).join(sorted((first + ".o", second + ".o")))!r})
code, said = output("ar", "t", "/app/lib/lib{library}.a")
demand(
    sorted(said.split()) == {sorted((first + ".o", second + ".o"))!r},
    "other members in the library",
)
code, said = output("gcc", "-o", "/tmp/again", "/app/src/main.c", "-L/app/lib", "-l{library}")
demand(code == 0, "the library cannot be linked")
for n in (0, 5, 40):
    try:
        demand(
            output("/app/main", str(n))[1].strip() == str(n * {a} + {b}),
            "the program prints something else",
        )
    except OSError as error:
        fail(str(error))
"""


FAMILIES = (
    Family("repair-build", "compilers", "medium", "test", _repair_build, ("gcc",)),
    Family("repair-makefile", "compilers", "hard", "train", _repair_makefile, ("make",)),
    Family(
        "static-library", "compilers", "medium", "calibration", _static_library, ("gcc", "binutils")
    ),
)
