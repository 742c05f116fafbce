"""Families about JSON, XML and other structured text."""

import json
import random

from envs.terminal_bench.own.drawing import NOUNS, name, names, people
from envs.terminal_bench.own.family import Family, Made

_TO_CSV = (
    "import json\n"
    "records = [one for one in json.load(open('/app/people.json')) if 'age' in one]\n"
    "print('id,name,age,tags')\n"
    "for one in sorted(records, key=lambda one: one['id']):\n"
    "    print(one['id'], one['name'], one['age'], '|'.join(one['tags']), sep=',')"
)
_TOTALS = (
    "import json, xml.etree.ElementTree as tree\n"
    "totals = {}\n"
    "for item in tree.parse('/app/stock.xml').getroot():\n"
    "    worth = int(item.find('count').text) * int(item.find('price').text)\n"
    "    totals[item.get('shelf')] = totals.get(item.get('shelf'), 0) + worth\n"
    "json.dump(totals, open('/app/totals.json', 'w'), sort_keys=True)"
)
_MERGE = (
    "import json, re\n"
    "merged = {}\n"
    "for layer in ('base', 'site', 'local'):\n"
    "    for line in open(f'/app/conf/{layer}.env'):\n"
    "        if gone := re.match(r'# unset (\\w+)', line):\n"
    "            merged.pop(gone[1], None)\n"
    "        elif '=' in line:\n"
    "            key, value = line.strip().split('=')\n"
    "            merged[key] = int(value)\n"
    "json.dump(merged, open('/app/merged.json', 'w'), indent=1)"
)


def _json_to_csv(rng: random.Random) -> Made:
    records = []
    for number, who in enumerate(people(rng, rng.randint(8, 14))):
        record: dict[str, object] = {"id": 100 + number, "name": who, "city": rng.choice(NOUNS)}
        record["tags"] = rng.sample(("red", "blue", "green", "old", "new"), rng.randint(0, 3))
        if rng.random() < 0.7:
            record["age"] = rng.randint(18, 80)
        records.append(record)
    rng.shuffle(records)
    aged_records = [record for record in records if "age" in record]
    if not aged_records:
        records[0]["age"] = 33
        aged_records = [records[0]]
    rows = []
    for record in sorted(aged_records, key=lambda record: int(str(record["id"]))):
        tags = "|".join(map(str, record["tags"]))  # type: ignore[call-overload]
        rows.append(f"{record['id']},{record['name']},{record['age']},{tags}")
    answer = "\n".join(("id,name,age,tags", *rows))
    return Made(
        instruction="/app/people.json is a list of records. Write /app/people.csv with the header "
        "id,name,age,tags and a line for each record that has an age, sorted by id; the tags are "
        "joined by | in their order.",
        files={"people.json": json.dumps(records, indent=1) + "\n"},
        oracle=(
            "head -c 300 /app/people.json",
            f"cat > /tmp/convert.py <<'END'\n{_TO_CSV}\nEND",
            "python3 /tmp/convert.py > /app/people.csv",
            "head -n 3 /app/people.csv",
        ),
        wrong=(
            f"cat > /tmp/convert.py <<'END'\n"
            f"{_TO_CSV.replace(chr(39) + '|' + chr(39), chr(39) + ';' + chr(39))}\n"
            "print()\nEND".replace("print()", "print('end')"),
            "python3 /tmp/convert.py > /app/people.csv",
        ),
        check=f"same('/app/people.csv', {answer!r})",
    )


def _repair_json(rng: random.Random) -> Made:
    keys = names(rng, rng.randint(5, 8))
    value: dict[str, object] = {
        key: rng.choice((rng.randint(1, 99), name(rng), True, None)) for key in keys
    }
    value["list"] = [rng.randint(1, 9) for _ in range(4)]
    lines = json.dumps(value, indent=2).split("\n")
    target = rng.choice(keys)
    number = rng.randint(100, 999)
    broken_lines = [line.replace('"', "'") if f'"{keys[0]}"' in line else line for line in lines]
    broken_lines[-2] += ","
    broken_lines.insert(2, f"  // {name(rng)}")
    answer = value | {target: number}
    return Made(
        instruction=f"/app/config.json is no valid JSON: it has a comment line, single quotes and "
        f"a comma too many. Repair it without changing its keys and values, then set {target!r} to "
        f"{number}.",
        files={"config.json": "\n".join(broken_lines) + "\n"},
        oracle=(
            "python3 -m json.tool /app/config.json || true",
            "cat /app/config.json",
            "sed -i -e '/^ *\\/\\//d' -e \"s/'/\\\"/g\" /app/config.json",
            "python3 -c \"import re; p='/app/config.json'; t=open(p).read(); "
            "open(p,'w').write(re.sub(r',(\\s*[}\\]])', r'\\1', t))\"",
            f"python3 -c \"import json; p='/app/config.json'; d=json.load(open(p)); "
            f"d['{target}']={number}; json.dump(d, open(p,'w'), indent=2)\"",
            "python3 -m json.tool /app/config.json > /dev/null && echo valid",
        ),
        wrong=(
            "sed -i -e '/^ *\\/\\//d' -e \"s/'/\\\"/g\" /app/config.json",
            "cat /app/config.json",
        ),
        check=f"""
try:
    found = json.loads(text("/app/config.json"))
except ValueError as error:
    fail(str(error))
demand(found == {answer!r}, "other keys or values")
""",
    )


def _stock(rng: random.Random) -> tuple[list[str], dict[str, int]]:
    """Lines of XML, and the worth of what lies on each shelf."""
    shelves = names(rng, rng.randint(3, 4))
    totals = dict.fromkeys(shelves, 0)
    lines = ["<stock>"]
    for number in range(rng.randint(12, 20)):
        shelf = rng.choice(shelves)
        count, price = rng.randint(0, 9), rng.randint(1, 50)
        totals[shelf] += count * price
        content = f"<count>{count}</count><price>{price}</price>"
        lines.append(f'  <item id="{number}" shelf="{shelf}">{content}</item>')
    lines.append("</stock>")
    return lines, totals


def _xml_totals(rng: random.Random) -> Made:
    lines, totals = _stock(rng)
    totals_json = json.dumps(totals, sort_keys=True)
    careless = _TOTALS.replace("int(item.find('count').text) * ", "")
    shelf_totals = {
        shelf: total
        for shelf, total in totals.items()
        if any(f'shelf="{shelf}"' in line for line in lines)
    }
    return Made(
        instruction="/app/stock.xml lists items with a shelf, a count and a price. Write "
        "/app/totals.json: a JSON object with the sum of count times price for every shelf that "
        "occurs.",
        files={"stock.xml": "\n".join(lines) + "\n"},
        oracle=(
            "head -n 3 /app/stock.xml",
            f"cat > /tmp/totals.py <<'END'\n{_TOTALS}\nEND",
            "python3 /tmp/totals.py",
            "cat /app/totals.json",
        ),
        wrong=(
            f"cat > /tmp/totals.py <<'END'\n{careless}\nEND",
            "python3 /tmp/totals.py",
        ),
        check=f"""
try:
    found = json.loads(text("/app/totals.json"))
except ValueError as error:
    fail(str(error))
demand(found == {shelf_totals!r}, "other totals")
"""
        + f"# all shelves: {totals_json}\n",
    )


def _layers(rng: random.Random) -> tuple[dict[str, str], dict[str, int]]:
    """The files of the settings, and the settings that hold in the end."""
    keys = names(rng, 8)
    layers = ("base", "site", "local")
    values: dict[str, dict[str, int]] = {}
    for place, layer in enumerate(layers):
        layer_keys = keys if place == 0 else rng.sample(keys, 4 - place)
        values[layer] = {key: rng.randint(1, 999) for key in layer_keys}
    settings: dict[str, int] = {}
    for layer in layers:
        settings |= values[layer]
    unset_key = rng.choice([key for key in keys if key not in values["local"]])
    del settings[unset_key]
    files = {
        f"conf/{layer}.env": "".join(
            f"{key.upper()}={value}\n" for key, value in values[layer].items()
        )
        for layer in layers
    }
    files["conf/local.env"] += f"# unset {unset_key.upper()}\n"
    return files, {key.upper(): value for key, value in settings.items()}


def _layered_settings(rng: random.Random) -> Made:
    files, settings = _layers(rng)
    return Made(
        instruction="Settings lie in /app/conf/base.env, site.env and local.env as KEY=NUMBER; a "
        "later file (in this order) overrides an earlier one, and a line `# unset KEY` removes "
        "KEY. Write the settings that hold in the end to /app/merged.json, as one JSON object with "
        "numbers as values.",
        files=files,
        oracle=(
            "head -n 20 /app/conf/*.env",
            f"cat > /tmp/merge.py <<'END'\n{_MERGE}\nEND",
            "python3 /tmp/merge.py",
            "cat /app/merged.json",
        ),
        wrong=(
            f"cat > /tmp/merge.py <<'END'\n{_MERGE.replace('merged.pop(gone[1], None)', 'pass')}\n"
            f"END",
            "python3 /tmp/merge.py",
        ),
        check=f"""
try:
    found = json.loads(text("/app/merged.json"))
except ValueError as error:
    fail(str(error))
demand(found == {settings!r}, "other settings")
""",
    )


FAMILIES = (
    Family("json-to-csv", "json", "medium", "train", _json_to_csv),
    Family("repair-json", "json", "medium", "calibration", _repair_json),
    Family("xml-totals", "xml", "medium", "validation", _xml_totals),
    Family("layered-settings", "json", "medium", "test", _layered_settings),
)
