"""Families about tables and encodings as plain text."""

import random

from envs.terminal_bench.own.drawing import NOUNS, day, names, people, sentence
from envs.terminal_bench.own.family import Family, Made


def _fixed_width(rng: random.Random) -> Made:
    widths = (rng.randint(8, 12), rng.randint(10, 14), 6)
    who = people(rng, rng.randint(8, 14))
    numbers = rng.sample(range(1, 10_000), len(who))
    rows = [
        (person, rng.choice(NOUNS), str(number))
        for person, number in zip(who, numbers, strict=True)
    ]
    lines = [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    ]
    answer = "\n".join("\t".join(row) for row in sorted(rows, key=lambda row: int(row[2])))
    first, second = widths[0], widths[0] + widths[1]
    return Made(
        instruction=f"/app/table.txt has columns of fixed width: a name in characters 1 to "
        f"{first}, a place in {first + 1} to {second}, a number in {second + 1} to {second + 6}, "
        f"padded with spaces. Write /app/table.tsv with the columns separated by single tabs, "
        f"without padding, sorted by the number in ascending order.",
        files={"table.txt": "\n".join(lines) + "\n"},
        oracle=(
            "head -n 3 /app/table.txt",
            f"awk '{{ a=substr($0,1,{first}); b=substr($0,{first + 1},{widths[1]}); "
            f'c=substr($0,{second + 1},6); gsub(/ +$/,"",a); gsub(/ +$/,"",b); '
            'gsub(/ +$/,"",c); print a "\\t" b "\\t" c }\' /app/table.txt > /tmp/rows',
            "sort -t \"$(printf '\\t')\" -k3,3n /tmp/rows > /app/table.tsv",
            "head -n 3 /app/table.tsv",
        ),
        wrong=(
            'awk \'{ print $1 "\\t" $2 "\\t" $3 }\' /app/table.txt | sort -k3 -r > /app/table.tsv',
        ),
        check=f"same('/app/table.tsv', {answer!r})",
    )


def _join_tables(rng: random.Random) -> Made:
    who = people(rng, rng.randint(8, 12))
    codes = rng.sample(range(100, 999), len(who))
    cities = [rng.choice(NOUNS) for _ in who]
    city_indices = rng.sample(range(len(who)), len(who) - 3)
    left = [f"{codes[n]};{who[n]}" for n in range(len(who))]
    right = [f"{codes[n]};{cities[n]}" for n in city_indices] + [f"{rng.randint(1, 99)};nowhere"]
    rng.shuffle(left)
    rng.shuffle(right)
    rows = "\n".join(
        f"{codes[n]};{who[n]};{cities[n]}" for n in sorted(city_indices, key=lambda n: codes[n])
    )
    missing_names = "\n".join(sorted(who[n] for n in range(len(who)) if n not in city_indices))
    return Made(
        instruction="/app/people.txt has lines CODE;NAME and /app/cities.txt lines CODE;CITY, in "
        "no order. Write /app/joined.txt with CODE;NAME;CITY for the codes that are in both, in "
        "ascending order of the code, and /app/missing.txt with the names that have no city, "
        "sorted.",
        files={"people.txt": "\n".join(left) + "\n", "cities.txt": "\n".join(right) + "\n"},
        oracle=(
            "head -n 2 /app/people.txt /app/cities.txt",
            "LC_ALL=C sort -t';' -k1,1 /app/people.txt > /tmp/people",
            "LC_ALL=C sort -t';' -k1,1 /app/cities.txt > /tmp/cities",
            "LC_ALL=C join -t';' /tmp/people /tmp/cities | sort -n > /app/joined.txt",
            "LC_ALL=C join -t';' -v1 /tmp/people /tmp/cities | cut -d';' -f2 | sort "
            "> /app/missing.txt",
            "wc -l /app/joined.txt /app/missing.txt",
        ),
        wrong=(
            "paste -d';' /app/people.txt /app/cities.txt | cut -d';' -f1,2,4 | sort -n "
            "> /app/joined.txt",
            "cut -d';' -f2 /app/people.txt | sort > /app/missing.txt",
        ),
        check=f"same('/app/joined.txt', {rows!r})\nsame('/app/missing.txt', {missing_names!r})",
    )


def _one_date_format(rng: random.Random) -> Made:
    lines = []
    events = []
    for number in range(rng.randint(10, 16)):
        year, month, date = day(rng, rng.randint(2019, 2024))
        events.append((f"{year}-{month:02}-{date:02}", f"event{number}"))
        date_text = rng.choice(
            (f"{date:02}.{month:02}.{year}", f"{year}/{month:02}/{date:02}", events[-1][0])
        )
        lines.append(f"event{number},{date_text}")
    result = "\n".join(f"{date},{event}" for date, event in sorted(events))
    return Made(
        instruction="In /app/events.csv (NAME,DATE) dates are written as DD.MM.YYYY, as YYYY/MM/DD "
        "or as YYYY-MM-DD. Write /app/sorted.csv with lines DATE,NAME in which every date is "
        "YYYY-MM-DD, sorted by date and then by name.",
        files={"events.csv": "\n".join(lines) + "\n"},
        oracle=(
            "head -n 5 /app/events.csv",
            "sed -E 's#,([0-9]{2})\\.([0-9]{2})\\.([0-9]{4})$#,\\3-\\2-\\1#; "
            "s#,([0-9]{4})/([0-9]{2})/([0-9]{2})$#,\\1-\\2-\\3#' /app/events.csv > /tmp/dates",
            "awk -F, '{ print $2 \",\" $1 }' /tmp/dates | LC_ALL=C sort > /app/sorted.csv",
            "head -n 3 /app/sorted.csv",
        ),
        wrong=(
            "sed -E 's#,([0-9]{2})\\.([0-9]{2})\\.([0-9]{4})$#,\\3-\\1-\\2#' /app/events.csv | "
            "awk -F, '{ print $2 \",\" $1 }' > /app/sorted.csv",
        ),
        check=f"same('/app/sorted.csv', {result!r})",
    )


def _frequent_words(rng: random.Random) -> Made:
    vocabulary = names(rng, 12)
    counts = dict(zip(vocabulary, rng.sample(range(2, 60), len(vocabulary)), strict=True))
    words = [word for word, count in counts.items() for _ in range(count)]
    tokens = [rng.choice((word, word.capitalize(), word.upper())) for word in words]
    rng.shuffle(tokens)
    stop = rng.sample(vocabulary, 3)
    text = ""
    for place, word in enumerate(tokens):
        text += word + rng.choice((" ", " ", ", ", ".\n" if place % 7 == 0 else " "))
    top = rng.randint(4, 6)
    ranking = sorted((w for w in vocabulary if w not in stop), key=lambda w: -counts[w])[:top]
    answer = "\n".join(f"{word} {counts[word]}" for word in ranking)
    return Made(
        instruction=f"Count the words of /app/book.txt without regard to case and punctuation. "
        f"Leave out the words listed in /app/stop.txt. Write the {top} most frequent to "
        f"/app/words.txt as `word count` in small letters, the most frequent first.",
        files={"book.txt": text + "\n", "stop.txt": "\n".join(stop) + "\n"},
        oracle=(
            "head -c 200 /app/book.txt",
            "tr -cs 'A-Za-z' '\\n' < /app/book.txt | tr A-Z a-z > /tmp/words",
            "grep -vxF -f /app/stop.txt /tmp/words | grep . | sort | uniq -c | sort -rn "
            "> /tmp/ranked",
            f"head -n {top} /tmp/ranked | awk '{{ print $2, $1 }}' > /app/words.txt",
            "cat /app/words.txt",
        ),
        wrong=(
            "tr ' ' '\\n' < /app/book.txt | grep -vxF -f /app/stop.txt | sort | uniq -c | sort -rn "
            f"| head -n {top} | awk '{{ print $2, $1 }}' > /app/words.txt",
        ),
        check=f"same('/app/words.txt', {answer!r})",
    )


def _inbox(rng: random.Random) -> tuple[dict[str, str | bytes], dict[str, str]]:
    """Texts in several encodings, and what each says."""
    words = ("Grüße", "café", "Ærø", "señor", "façade", "naïve", "Zürich", "übermäßig")
    files: dict[str, str | bytes] = {}
    texts = {}
    kinds = [
        "latin-1",
        "utf-16",
        "utf-8",
        *(rng.choice(("latin-1", "utf-16", "utf-8")) for _ in range(3)),
    ]
    for number, encoding in enumerate(kinds):
        lines = [f"{rng.choice(words)} {sentence(rng, 3)}" for _ in range(rng.randint(3, 6))]
        name = f"{names(rng, 1)[0]}{number}.txt"
        files[f"inbox/{name}"] = "\r\n".join((*lines, "")).encode(encoding)
        texts[name] = "\n".join(lines)
    return files, texts


def _recode(rng: random.Random) -> Made:
    files, texts = _inbox(rng)
    return Made(
        instruction="The text files in /app/inbox are in ISO-8859-1, UTF-16 (with a byte order "
        "mark) or UTF-8, with lines that end in CR LF. Write each to /app/outbox under the same "
        "name, in UTF-8 without a byte order mark and with lines that end in LF.",
        files=files,
        oracle=(
            "ls /app/inbox | wc -l",
            "mkdir -p /app/outbox",
            "cd /app/inbox\nfor name in *; do\n"
            '  if head -c 2 "$name" | od -An -tx1 | grep -q "ff fe"; then from=UTF-16\n'
            '  elif iconv -f UTF-8 -t UTF-8 "$name" > /dev/null 2>&1; then from=UTF-8\n'
            "  else from=ISO-8859-1\n  fi\n"
            '  iconv -f $from -t UTF-8 "$name" | tr -d \'\\r\' > /app/outbox/"$name"\ndone',
            "ls /app/outbox | wc -l",
        ),
        wrong=(
            "mkdir -p /app/outbox",
            "cd /app/inbox\nfor name in *; do\n"
            '  iconv -f ISO-8859-1 -t UTF-8 "$name" | tr -d \'\\r\' > /app/outbox/"$name"\ndone',
        ),
        check=f"""
wanted = {texts!r}
demand(sorted(os.listdir("/app/outbox")) == sorted(wanted), "other files than asked for")
for name, content in wanted.items():
    raw = open("/app/outbox/" + name, "rb").read()
    demand(raw.rstrip(b"\\n") == content.encode(), name + " has another content")
""",
    )


FAMILIES = (
    Family("fixed-width", "text", "medium", "train", _fixed_width),
    Family("join-tables", "csv", "medium", "validation", _join_tables),
    Family("one-date-format", "csv", "medium", "train", _one_date_format),
    Family("frequent-words", "text", "medium", "calibration", _frequent_words),
    Family("recode", "encodings", "hard", "test", _recode),
)
