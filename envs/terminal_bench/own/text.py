"""Families about text: logs, configuration, columns, regular expressions."""

import random
from collections import Counter

from envs.terminal_bench.own.drawing import day, name, names, people, sentence
from envs.terminal_bench.own.family import Family, Made


def _busiest_clients(rng: random.Random) -> Made:
    top = rng.randint(3, 5)
    addresses = [f"10.{rng.randint(0, 9)}.{rng.randint(0, 255)}.{n}" for n in range(1, 10)]
    counts = dict(zip(addresses, rng.sample(range(3, 40), len(addresses)), strict=True))
    lines = []
    for address, count in counts.items():
        for _ in range(count):
            path = rng.choice(("/", "/login", "/api/items", "/img/logo.png"))
            lines.append(f'{address} - - [12/Mar/2023:10:00:00 +0000] "GET {path} HTTP/1.1" 200 12')
    failing_addresses = rng.sample(addresses, 4)
    lines += [
        f'{address} - - [12/Mar/2023:11:00:00 +0000] "GET /x HTTP/1.1" 404 0'
        for address in failing_addresses * 30
    ]
    rng.shuffle(lines)
    ranking = sorted(counts, key=lambda address: -counts[address])[:top]
    answer = "\n".join(f"{counts[address]} {address}" for address in ranking)
    return Made(
        instruction=f"From /app/access.log take the {top} addresses (first column) with the most "
        f"requests whose status (the number after the quoted request) is 200. Write them to "
        f"/app/top.txt, one a line as `COUNT ADDRESS` with one space between, the largest count "
        f"first.",
        files={"access.log": "\n".join(lines) + "\n"},
        oracle=(
            "head -n 3 /app/access.log",
            "grep -c '\" 200 ' /app/access.log",
            "grep '\" 200 ' /app/access.log | awk '{print $1}' | sort | uniq -c | sort -rn "
            "> /tmp/counts",
            f"head -n {top} /tmp/counts | awk '{{print $1, $2}}' > /app/top.txt",
            "cat /app/top.txt",
        ),
        wrong=(
            f"awk '{{print $1}}' /app/access.log | sort | uniq -c | sort -rn | head -n {top} | "
            "awk '{print $1, $2}' > /app/top.txt",
            "cat /app/top.txt",
        ),
        check=f"same('/app/top.txt', {answer!r})",
    )


def _sum_by_group(rng: random.Random) -> Made:
    groups = names(rng, rng.randint(3, 5))
    rows = []
    totals: Counter[str] = Counter()
    for number in range(rng.randint(40, 90)):
        group = rng.choice(groups)
        amount = rng.randint(5, 900)
        state = rng.choice(("paid", "paid", "open", "void"))
        rows.append(f"{1000 + number},{group},{state},{amount}")
        if state == "paid":
            totals[group] += amount
    answer = "\n".join(f"{group},{totals[group]}" for group in sorted(totals))
    return Made(
        instruction="/app/orders.csv has the columns id,group,state,amount. Add up the amounts of "
        "the orders whose state is paid for each group, and write them to /app/totals.csv as "
        "`group,total` without a header, sorted by group.",
        files={"orders.csv": "id,group,state,amount\n" + "\n".join(rows) + "\n"},
        oracle=(
            "head -n 4 /app/orders.csv",
            'awk -F, \'$3 == "paid" { sum[$2] += $4 } END { for (g in sum) print g "," sum[g] }\' '
            "/app/orders.csv > /tmp/sums",
            "sort /tmp/sums > /app/totals.csv",
            "cat /app/totals.csv",
        ),
        wrong=(
            "awk -F, 'NR > 1 { sum[$2] += $4 } END { for (g in sum) print g \",\" sum[g] }' "
            "/app/orders.csv | sort > /app/totals.csv",
        ),
        check=f"same('/app/totals.csv', {answer!r})",
    )


def _edit_settings(rng: random.Random) -> Made:
    keys = names(rng, 6)
    sections = rng.sample(("server", "client", "cache", "queue"), 3)
    values = {(s, k): rng.randint(10, 99) for s in sections for k in keys}
    section, other_section = rng.sample(sections, 2)
    key, off_key = rng.sample(keys, 2)
    value = rng.randint(100, 999)
    lines = []
    for heading in sections:
        lines.append(f"[{heading}]")
        for k in keys:
            mark = "#" if (heading, k) == (other_section, off_key) else ""
            lines.append(f"{mark}{k} = {values[heading, k]}")
        lines.append("")
    text = "\n".join(lines)
    new_text = text.replace(f"#{off_key} =", f"{off_key} =")
    head, tail = new_text.split(f"[{section}]")
    new_text = (
        head
        + f"[{section}]"
        + tail.replace(f"{key} = {values[section, key]}", f"{key} = {value}", 1)
    )
    return Made(
        instruction=f"In /app/settings.ini set {key} to {value} in the section [{section}], and "
        f"activate the commented line of {off_key} in the section [{other_section}] with the value "
        f"it has. Nothing else in the file changes. Keep the old file as /app/settings.ini.bak.",
        files={"settings.ini": text},
        oracle=(
            "cat /app/settings.ini",
            "cp /app/settings.ini /app/settings.ini.bak",
            f"sed -i '/^\\[{section}\\]/,/^\\[/ s/^{key} = .*/{key} = {value}/' /app/settings.ini",
            f"sed -i '/^\\[{other_section}\\]/,/^$/ s/^#{off_key} =/{off_key} =/' "
            f"/app/settings.ini",
            "diff /app/settings.ini.bak /app/settings.ini || true",
        ),
        wrong=(
            "cp /app/settings.ini /app/settings.ini.bak",
            f"sed -i 's/^{key} = .*/{key} = {value}/; s/^#{off_key} =/{off_key} =/' "
            f"/app/settings.ini",
        ),
        check=f"same('/app/settings.ini', {new_text!r})\nsame('/app/settings.ini.bak', {text!r})",
    )


def _extract_addresses(rng: random.Random) -> Made:
    domains = [f"{stem}.example" for stem in names(rng, 3)]
    addresses = {f"{who}@{rng.choice(domains)}" for who in people(rng, rng.randint(6, 12))}
    target = rng.choice(domains)
    certain = f"{people(rng, 1)[0]}@{target}"
    addresses.add(certain)
    lines = [
        f"{sentence(rng, 2)} {certain.upper()[: -len(target)]}{target}",
        certain,
        f"{certain} too",
    ]
    for address in sorted(addresses) * 2:
        local, _, domain = address.partition("@")
        variant = rng.choice((address, local.upper() + "@" + domain, f"<{address}>"))
        lines.append(f"{sentence(rng, 3)} {variant}, {sentence(rng, 2)}")
    lines += [f"{sentence(rng, 2)} @{target} {sentence(rng, 2)}", f"see {name(rng)}.{target} today"]
    rng.shuffle(lines)
    answer = "\n".join(sorted(address for address in addresses if address.endswith("@" + target)))
    year, month, date = day(rng)
    return Made(
        instruction=f"/app/mail.txt mentions e-mail addresses in running text, some in capitals, "
        f"some more than once. Write those at {target} to /app/addresses.txt: in small letters, "
        f"each once, sorted, one a line. The file was exported on {year}-{month:02}-{date:02}.",
        files={"mail.txt": "\n".join(lines) + "\n"},
        oracle=(
            "head -n 5 /app/mail.txt",
            f"grep -oiE '[a-z]+@{target}' /app/mail.txt > /tmp/found",
            "tr A-Z a-z < /tmp/found | sort -u > /app/addresses.txt",
            "wc -l /app/addresses.txt",
        ),
        wrong=(f"grep -oE '[a-z]+@{target}' /app/mail.txt | sort > /app/addresses.txt",),
        check=f"same('/app/addresses.txt', {answer!r})",
    )


FAMILIES = (
    Family("busiest-clients", "logs", "medium", "train", _busiest_clients),
    Family("sum-by-group", "csv", "easy", "validation", _sum_by_group),
    Family("edit-settings", "text", "medium", "calibration", _edit_settings),
    Family("extract-addresses", "regular-expressions", "easy", "test", _extract_addresses),
)
