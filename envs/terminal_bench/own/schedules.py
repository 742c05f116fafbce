"""A family about schedules."""

import random

from envs.terminal_bench.own.drawing import names, people, sentence
from envs.terminal_bench.own.family import Family, Made

_JOBS = """
def numbers(field, low, high):
    found = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        found |= set(range(int(first), int(last or (high if step else first)) + 1, int(step or 1)))
    return found

bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
jobs = {}
for line in text("/app/crontab").splitlines():
    if line.strip() and not line.startswith("#"):
        *fields, command = line.split(None, 5)
        demand(len(fields) == 5, "a line without five fields")
        try:
            jobs[command.strip()] = [numbers(field, *bound) for field, bound in zip(fields, bounds)]
        except ValueError:
            fail("a field that is none: " + line)
all_days, all_months, week = set(range(1, 32)), set(range(1, 13)), set(range(7))"""
"""Reads the crontab into `jobs`: of every command, the numbers of its five fields."""


def _schedule_line(rng: random.Random) -> Made:
    minute, hour = rng.randint(1, 59), rng.randint(1, 22)
    days = sorted(rng.sample(range(1, 6), 2))
    names_of_days = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
    step = rng.choice((5, 10, 15, 20))
    script, poller = (f"/app/jobs/{part}.sh" for part in names(rng, 2))
    old_job = f"/app/jobs/{people(rng, 1)[0]}.sh"
    start = f"# {sentence(rng, 3)}\n0 0 * * * {old_job}\n30 1 * * 0 /app/jobs/weekly.sh\n"
    return Made(
        instruction=f"/app/crontab is a crontab of five fields and a command. Add two lines: "
        f"{script} at {hour:02}:{minute:02} on every {names_of_days[days[0]]} and "
        f"{names_of_days[days[1]]}, and {poller} every {step} minutes (at minute 0, {step}, ...) "
        f"from 08:00 to 17:59 on every day. Remove the line of {old_job}; "
        f"leave everything else. Days of the week are written as numbers, "
        f"0 is Sunday.",
        files={"crontab": start},
        oracle=(
            "cat /app/crontab",
            f"sed -i '\\|{old_job}|d' /app/crontab",
            f"grep -qF '{script}' /app/crontab || echo '{minute} {hour} * * {days[0]},{days[1]} "
            f"{script}' >> /app/crontab",
            f"grep -qF '{poller}' /app/crontab || echo '*/{step} 8-17 * * * {poller}' >> "
            f"/app/crontab",
            "cat /app/crontab",
        ),
        wrong=(
            f"sed -i '\\|{old_job}|d' /app/crontab",
            f"echo '{hour} {minute} * * {days[0]},{days[1]} {script}' >> /app/crontab",
            f"echo '*/{step} 8-18 * * * {poller}' >> /app/crontab",
        ),
        check=_JOBS
        + f"""
demand(jobs == {{
    {script!r}: [{{{minute}}}, {{{hour}}}, all_days, all_months, {{{days[0]}, {days[1]}}}],
    {poller!r}: [set(range(0, 60, {step})), set(range(8, 18)), all_days, all_months, week],
    "/app/jobs/weekly.sh": [{{30}}, {{1}}, all_days, all_months, {{0}}],
}}, "other jobs or times")
demand({start.splitlines()[0]!r} in text("/app/crontab"), "the comment is gone")
""",
    )


FAMILIES = (Family("schedule-line", "schedules", "medium", "validation", _schedule_line),)
