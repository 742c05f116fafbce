"""What families draw: names, numbers, lines. All of it depends on the given generator alone."""

import random

NOUNS = [
    "anchor",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "inlet",
    "jetty",
    "kernel",
    "lagoon",
    "meadow",
    "nectar",
    "orchard",
    "pebble",
    "quarry",
    "ridge",
    "summit",
    "tundra",
    "valley",
    "willow",
    "zephyr",
    "bridge",
    "canyon",
    "dune",
    "estuary",
    "forest",
    "glacier",
    "hollow",
    "island",
    "juniper",
    "lantern",
    "marble",
    "needle",
    "oasis",
    "prairie",
    "reef",
    "spruce",
    "thicket",
]
ADJECTIVES = [
    "amber",
    "brisk",
    "calm",
    "dusty",
    "eager",
    "faint",
    "gentle",
    "hidden",
    "ivory",
    "jolly",
    "keen",
    "lively",
    "misty",
    "narrow",
    "olive",
    "pale",
    "quiet",
    "rapid",
    "silent",
    "tidy",
    "upper",
    "vivid",
    "warm",
    "young",
]
PEOPLE = [
    "ada",
    "bela",
    "carl",
    "dora",
    "emil",
    "fay",
    "gus",
    "hana",
    "ivo",
    "june",
    "karl",
    "lena",
    "milo",
    "nora",
    "otto",
    "pia",
    "quinn",
    "rosa",
    "sven",
    "tara",
    "ugo",
    "vera",
    "walt",
    "xenia",
    "yara",
    "zeno",
]


def names(rng: random.Random, count: int) -> list[str]:
    """Different nouns."""
    return rng.sample(NOUNS, count)


def name(rng: random.Random) -> str:
    """An adjective and a noun, joined by a hyphen."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def people(rng: random.Random, count: int) -> list[str]:
    """Different first names."""
    return rng.sample(PEOPLE, count)


def sentence(rng: random.Random, words: int) -> str:
    """Words that mean nothing."""
    return " ".join(rng.choice((*ADJECTIVES, *NOUNS)) for _ in range(words))


def day(rng: random.Random, year: int = 2023) -> tuple[int, int, int]:
    """A date that exists."""
    return year, rng.randint(1, 12), rng.randint(1, 28)
