"""Families about SQLite. Databases are made by Python's own module when the machine is prepared."""

import random
from collections import defaultdict

from envs.terminal_bench.own.drawing import names, people, sentence
from envs.terminal_bench.own.family import Family, Made


def _database(path: str, statements: str) -> str:
    return (
        f"python3 - <<'END'\nimport sqlite3\ncon = sqlite3.connect({path!r})\n"
        f"con.executescript('''{statements}''')\ncon.commit()\nEND"
    )


_ASK = """
import sqlite3
def ask(path, sql):
    try:
        return sqlite3.connect(path).execute(sql).fetchall()
    except sqlite3.Error as error:
        fail(str(error))
"""


def _sales(rng: random.Random) -> tuple[list[str], dict[str, int]]:
    """Statements that fill the shop, and what each customer bought for in 2023."""
    who = people(rng, rng.randint(5, 8))
    rows = []
    totals: dict[str, int] = defaultdict(int)
    for number, customer in enumerate(who):
        rows.append(f"insert into customer values ({number + 1}, '{customer}');")
        for _ in range(rng.randint(1, 6)):
            amount = rng.randint(5, 400)
            year = rng.choice((2022, 2023))
            rows.append(
                f"insert into sale values ({number + 1}, {amount}, "
                f"'{year}-0{rng.randint(1, 9)}-11');"
            )
            totals[customer] += amount if year == 2023 else 0
    rows.append(f"insert into sale values (1, {rng.randint(1000, 1999)}, '2023-05-05');")
    totals[who[0]] += int(rows[-1].split(",")[1])
    return rows, totals


def _best_customers(rng: random.Random) -> Made:
    rows, totals = _sales(rng)
    ranking = sorted(
        ((total, customer) for customer, total in totals.items() if total),
        key=lambda pair: (-pair[0], pair[1]),
    )
    answer = "\n".join(f"{customer}|{total}" for total, customer in ranking[:3])
    sql = (
        "select name, sum(amount) as total from customer join sale on sale.customer = customer.id "
        "where day like '2023-%' group by name order by total desc, name limit 3;"
    )
    return Made(
        instruction="/app/shop.db is a SQLite database with the tables customer(id, name) and "
        "sale(customer, amount, day). Write the three customers with the largest sum of sales in "
        "2023 to /app/best.txt as NAME|SUM, the largest first; where sums are equal, by name.",
        setup=_database(
            "/app/shop.db",
            "create table customer(id integer primary key, name text); "
            "create table sale(customer integer, amount integer, day text);\n" + "\n".join(rows),
        ),
        oracle=(
            "sqlite3 /app/shop.db .schema",
            "sqlite3 /app/shop.db 'select count(*) from sale'",
            f"cat > /tmp/best.sql <<'END'\n{sql}\nEND",
            "sqlite3 /app/shop.db < /tmp/best.sql > /app/best.txt",
            "cat /app/best.txt",
        ),
        wrong=(
            f"cat > /tmp/best.sql <<'END'\n{sql.replace('desc', 'asc')}\nEND",
            "sqlite3 /app/shop.db < /tmp/best.sql > /app/best.txt",
        ),
        check=f"same('/app/best.txt', {answer!r})",
    )


def _load_table(rng: random.Random) -> Made:
    table = names(rng, 1)[0]
    rows = [
        (100 + number, who, rng.randint(1, 90))
        for number, who in enumerate(people(rng, rng.randint(8, 14)))
    ]
    rng.shuffle(rows)
    text = "id,name,score\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    text += f"{rows[0][0]},{rows[0][1]},{rows[0][2]}\n"
    return Made(
        instruction=f"Load /app/rows.csv (with a header; one row stands twice) into a new SQLite "
        f"database /app/data.db, table {table}, with the columns id (integer primary key), name "
        f"(text) and score (integer), every row once. Make an index {table}_by_score on score, and "
        f"write the mean score, rounded to two decimals, to /app/mean.txt.",
        files={"rows.csv": text},
        oracle=(
            "head -n 3 /app/rows.csv",
            f"sqlite3 /app/data.db 'create table {table}(id integer primary key, name text, score "
            f"integer)'",
            "tail -n +2 /app/rows.csv | sort -u > /tmp/rows.csv",
            f"sqlite3 /app/data.db -cmd '.mode csv' '.import /tmp/rows.csv {table}'",
            f"sqlite3 /app/data.db 'create index {table}_by_score on {table}(score)'",
            f"sqlite3 /app/data.db \"select printf('%.2f', avg(score)) from {table}\" "
            f"> /app/mean.txt",
            "cat /app/mean.txt",
        ),
        wrong=(
            f"sqlite3 /app/data.db -cmd '.mode csv' '.import /app/rows.csv {table}'",
            f"sqlite3 /app/data.db 'create index {table}_by_score on {table}(score)'",
            f"sqlite3 /app/data.db 'select avg(score) from {table}' > /app/mean.txt",
        ),
        check=_check_loaded(table, rows),
    )


def _check_loaded(table: str, rows: list[tuple[int, str, int]]) -> str:
    return (
        _ASK
        + f"""
rows = ask("/app/data.db", "select id, name, score from {table} order by id")
demand(rows == {sorted(rows)!r}, "other rows in the table")
columns = ask("/app/data.db", "pragma table_info({table})")
kinds = [(name.lower(), kind.lower(), key) for _, name, kind, _, _, key in columns]
demand(
    kinds == [("id", "integer", 1), ("name", "text", 0), ("score", "integer", 0)],
    "other columns",
)
found = "select tbl_name from sqlite_master where type='index' and name='{table}_by_score'"
demand(
    ask("/app/data.db", found) == [("{table}",)],
    "no such index",
)
try:
    mean = float(text("/app/mean.txt"))
except ValueError:
    fail("mean.txt holds no number")
demand(re.fullmatch(r"\\d+\\.\\d\\d", text("/app/mean.txt").strip()), "not two decimals")
demand(abs(mean - {sum(row[2] for row in rows) / len(rows)!r}) < 0.00501, "another mean")
"""
    )


def _accounts(rng: random.Random) -> tuple[list[str], list[tuple[int, str, str, int]]]:
    """Statements that fill the old table, and the rows of the new one."""
    rows = []
    new_rows = []
    for number, who in enumerate(people(rng, rng.randint(6, 10))):
        family = names(rng, 1)[0]
        euros, cents = rng.randint(1, 99), rng.randint(0, 99)
        rows.append(
            f"insert into account values ({number + 1}, '{who} {family}', '{euros}.{cents:02}');"
        )
        new_rows.append((number + 1, who, family, euros * 100 + cents))
    return rows, new_rows


def _migrate_table(rng: random.Random) -> Made:
    rows, new_rows = _accounts(rng)
    return Made(
        instruction="In the SQLite database /app/bank.db the table account(id, owner, balance) has "
        "owners like 'ada delta' and balances as text like '12.50'. Change the table to "
        "account(id, first, last, cents), where cents is a whole number, with all rows kept. Set "
        "user_version of the database to 2, and keep the old database as /app/bank.old.db.",
        setup=_database(
            "/app/bank.db",
            "create table account(id integer primary key, owner text, balance text);\n"
            + "\n".join(rows),
        ),
        oracle=(
            "cp /app/bank.db /app/bank.old.db",
            "sqlite3 /app/bank.db 'select * from account limit 3'",
            "sqlite3 /app/bank.db 'create table fresh(id integer primary key, first text, last "
            "text, cents integer)'",
            "cat > /tmp/move.sql <<'END'\n"
            "insert into fresh select id, substr(owner, 1, instr(owner, ' ') - 1), "
            "substr(owner, instr(owner, ' ') + 1), cast(round(balance * 100) as integer) from "
            "account;\nEND",
            "sqlite3 /app/bank.db < /tmp/move.sql",
            "sqlite3 /app/bank.db 'drop table account; alter table fresh rename to account; "
            "pragma user_version = 2'",
            "sqlite3 /app/bank.db 'select * from account limit 3'",
        ),
        wrong=(
            "cp /app/bank.db /app/bank.old.db",
            "sqlite3 /app/bank.db 'alter table account rename column owner to first; "
            "alter table account rename column balance to cents; "
            "alter table account add column last text; "
            "pragma user_version = 2'",
        ),
        check=_check_migrated(rows, new_rows),
    )


def _check_migrated(rows: list[str], new_rows: list[tuple[int, str, str, int]]) -> str:
    return (
        _ASK
        + f"""
names = [row[1] for row in ask("/app/bank.db", "pragma table_info(account)")]
demand(names == ["id", "first", "last", "cents"], "other columns")
demand(ask("/app/bank.db", "select * from account order by id") == {new_rows!r}, "other rows")
demand(ask("/app/bank.db", "pragma user_version") == [(2,)], "another user_version")
demand(
    ask("/app/bank.old.db", "select count(balance) from account") == [({len(rows)},)],
    "the old database is not kept",
)
"""
    )


def _orphan_rows(rng: random.Random) -> Made:
    books = names(rng, rng.randint(4, 6))
    rows = [f"insert into book values ({n + 1}, '{title}');" for n, title in enumerate(books)]
    loans = []
    for number in range(rng.randint(12, 18)):
        book = rng.randint(1, len(books) + 3)
        loans.append((number + 1, book))
        rows.append(f"insert into loan values ({number + 1}, {book}, '{sentence(rng, 1)}');")
    rows.append(f"insert into loan values (90, {len(books) + 2}, 'lost');")
    rows.append("insert into loan values (91, 1, 'kept');")
    loans += [(90, len(books) + 2), (91, 1)]
    orphans = [loan for loan, book in loans if book > len(books)]
    valid_loans = [loan for loan, book in loans if book <= len(books)]
    return Made(
        instruction="In /app/library.db (SQLite; book(id, title), loan(id, book, reader)) some "
        "loans name a book that does not exist. Write their ids to /app/orphans.txt in ascending "
        "order, one a line, then delete these loans, and nothing else.",
        setup=_database(
            "/app/library.db",
            "create table book(id integer primary key, title text); "
            "create table loan(id integer primary key, book integer, reader text);\n"
            + "\n".join(rows),
        ),
        oracle=(
            "sqlite3 /app/library.db .schema",
            "sqlite3 /app/library.db 'select id from loan where book not in (select id from book) "
            "order by id' > /app/orphans.txt",
            "sqlite3 /app/library.db 'delete from loan where book not in (select id from book)'",
            "sqlite3 /app/library.db 'select count(*) from loan'",
        ),
        wrong=(
            "sqlite3 /app/library.db 'delete from loan where book not in (select id from book)'",
            "sqlite3 /app/library.db 'select id from loan where book not in (select id from book)' "
            "> /app/orphans.txt",
        ),
        check=_check_orphans(orphans, valid_loans, books),
    )


def _check_orphans(orphans: list[int], valid_loans: list[int], books: list[str]) -> str:
    return (
        _ASK
        + f"""
same("/app/orphans.txt", {chr(10).join(map(str, sorted(orphans)))!r})
loans = ask("/app/library.db", "select id from loan order by id")
demand(
    [row[0] for row in loans] == {sorted(valid_loans)!r},
    "other loans are left",
)
demand(
    ask("/app/library.db", "select count(*) from book") == [({len(books)},)],
    "books were changed",
)
"""
    )


FAMILIES = (
    Family("best-customers", "sqlite", "medium", "train", _best_customers, ("sqlite3",)),
    Family("load-table", "sqlite", "medium", "calibration", _load_table, ("sqlite3",)),
    Family("migrate-table", "sqlite", "hard", "test", _migrate_table, ("sqlite3",)),
    Family("orphan-rows", "sqlite", "easy", "validation", _orphan_rows, ("sqlite3",)),
)
