"""The family `monthly-accounts`: text tools, archives, SQLite and JSON."""

import random
from dataclasses import dataclass, field

from envs.terminal_bench.own.drawing import names, people
from envs.terminal_bench.own.family import Made

_MONTHS = ("2023-01", "2023-02", "2023-03")
_SETUP = "cd in && gzip -n 2023-02.csv && tar -cf more.tar 2023-03.csv && rm 2023-03.csv"


@dataclass
class _Accounts:
    """Files of the months, the sum of every client that has rows, and lines without a number."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    rejected: list[str] = field(default_factory=list)
    rows: int = 0


def monthly_accounts(rng: random.Random) -> Made:
    """Accounts of three months, to be unpacked, checked, loaded and reported."""
    accounts = _accounts(rng)
    table = names(rng, 1)[0]
    ranking = sorted(((total, client) for client, total in accounts.sums.items()), reverse=True)
    report = "\n".join(f"{client},{total / 100:.2f}" for total, client in ranking)
    return Made(
        instruction=_instruction(table),
        files=accounts.files,
        setup=_SETUP,
        oracle=_oracle(table),
        wrong=_wrong(table),
        check=_check(table, accounts, report, [client for _, client in ranking]),
    )


def _accounts(rng: random.Random) -> _Accounts:
    clients = people(rng, 5)
    totals = dict.fromkeys(clients, 0)
    accounts = _Accounts()
    for month in _MONTHS:
        lines = ["client;day;cents"]
        for number in range(rng.randint(12, 18)):
            client = rng.choice(clients)
            cents = rng.randint(100, 90_000)
            line = f"{client};{month}-{rng.randint(1, 28):02};{cents}"
            if number == 5:
                line = f"{client};{month}-{rng.randint(1, 28):02};n/a"
                accounts.rejected.append(line)
            else:
                totals[client] += cents
                accounts.rows += 1
            lines.append(line)
        accounts.files[f"in/{month}.csv"] = "\r\n".join(lines) + "\r\n"
    accounts.sums = {client: total for client, total in totals.items() if total}
    return accounts


def _instruction(table: str) -> str:
    return (
        f"In /app/in are accounts of three months (client;day;cents, with a header, "
        f"lines end in CR LF): one file as it is, one compressed, one in an archive.\n"
        f"1. Put the three as plain files YYYY-MM.csv with LF into /app/work; /app/in stays.\n"
        f"2. Write the lines whose cents are no whole number to /app/rejected.txt, sorted.\n"
        f"3. Load all others into the table {table}(client text, day text, cents integer) of the "
        f"SQLite database /app/accounts.db.\n"
        f"4. Write /app/report.csv with `client,total` in whole currency with two decimals, the "
        f"largest first, without a header.\n"
        f"5. Write /app/summary.json with the keys rows (a number), clients (a number of clients "
        f"with rows) and largest (the name of the first client of the report)."
    )


def _oracle(table: str) -> tuple[str, ...]:
    return (
        "ls /app/in",
        "mkdir -p /app/work",
        "tr -d '\\r' < /app/in/2023-01.csv > /app/work/2023-01.csv",
        "zcat /app/in/2023-02.csv.gz | tr -d '\\r' > /app/work/2023-02.csv",
        "tar -xOf /app/in/more.tar 2023-03.csv | tr -d '\\r' > /app/work/2023-03.csv",
        "wc -l /app/work/*.csv",
        "tail -qn +2 /app/work/*.csv > /tmp/all",
        "grep -vE ';[0-9]+$' /tmp/all | sort > /app/rejected.txt",
        "grep -E ';[0-9]+$' /tmp/all > /tmp/good",
        f"sqlite3 /app/accounts.db 'drop table if exists {table}; "
        f"create table {table}(client text, day text, cents integer)'",
        f"sqlite3 /app/accounts.db -cmd '.separator ;' '.import /tmp/good {table}'",
        f"sqlite3 /app/accounts.db 'select count(*) from {table}'",
        f"cat > /tmp/report.sql <<'END'\n"
        f"select client || ',' || printf('%.2f', sum(cents) / 100.0) from {table} "
        "group by client order by sum(cents) desc;\nEND",
        "sqlite3 /app/accounts.db < /tmp/report.sql > /app/report.csv",
        "cat /app/report.csv",
        "rows=$(wc -l < /tmp/good); clients=$(wc -l < /app/report.csv); "
        "largest=$(head -n 1 /app/report.csv | cut -d, -f1)",
        'printf \'{"rows": %d, "clients": %d, "largest": "%s"}\\n\' "$rows" "$clients" '
        '"$largest" > /app/summary.json',
        "python3 -m json.tool /app/summary.json",
    )


def _wrong(table: str) -> tuple[str, ...]:
    return (
        "mkdir -p /app/work",
        "cp /app/in/2023-01.csv /app/work/; zcat /app/in/2023-02.csv.gz > /app/work/2023-02.csv",
        "tar -xf /app/in/more.tar -C /app/work",
        "tail -qn +2 /app/work/*.csv > /tmp/all",
        "grep -v 'n/a' /tmp/all > /tmp/good; grep 'n/a' /tmp/all > /app/rejected.txt",
        f"sqlite3 /app/accounts.db 'create table {table}(client text, day text, cents integer)'",
        f"sqlite3 /app/accounts.db -cmd '.separator ;' '.import /tmp/good {table}'",
        f"sqlite3 /app/accounts.db 'select client, sum(cents) from {table} group by client' "
        f"> /app/report.csv",
        "echo '{}' > /app/summary.json",
    )


def _check(table: str, accounts: _Accounts, report: str, ranking: list[str]) -> str:
    return f"""
import sqlite3
for month in {_MONTHS!r}:
    demand(
        text("/app/work/" + month + ".csv").startswith("client;day;cents\\n"),
        month + " is not there",
    )
    demand("\\r" not in text("/app/work/" + month + ".csv"), month + " has CR")
demand(
    sorted(os.listdir("/app/in")) == ["2023-01.csv", "2023-02.csv.gz", "more.tar"],
    "/app/in was changed",
)
same("/app/rejected.txt", {chr(10).join(sorted(accounts.rejected))!r})
try:
    ask = sqlite3.connect("/app/accounts.db").execute
    found = dict(ask("select client, sum(cents) from {table} group by client"))
    kinds = {{type(one) for (one,) in ask("select cents from {table}")}}
except sqlite3.Error as error:
    fail(str(error))
demand(found == {accounts.sums!r}, "other rows in the table")
demand(kinds == {{int}}, "cents are no whole numbers")
same("/app/report.csv", {report!r})
try:
    summary = json.loads(text("/app/summary.json"))
except ValueError as error:
    fail(str(error))
demand(
    summary == {{"rows": {accounts.rows}, "clients": {len(ranking)}, "largest": {ranking[0]!r}}},
    "another summary",
)
"""
