"""An expert that acts on what its episode has told: whoever reads the episode can learn to do as it
does.

TextWorld's planner sees the whole game. This expert does what the planner does as far as all of it
has been seen, and searches otherwise: it tries what is closed, then goes where it has not been,
nearest first. What the room's description should have shown and did not, it looks for again. In
three things it knows more: it is not fooled by perturbed text, of what it has seen it knows what
will be needed, and with nothing left to try it does what the planner does.
"""

import re
from collections import defaultdict, deque

from envs.textworld.env import TextWorldEnv

_NAME = re.compile(r"\b(?:[A-Z]-[a-z]+|[a-z]+\d+)\b")
_ROOM = re.compile(r"^-= (\w+) =-$", re.MULTILINE)
_CLOSED = re.compile(r"closed (\S+) (here|leading (\w+))")
_EXIT = re.compile(r"(?:exit to the|open \S+ leading) (\w+)")
_LYING = re.compile(
    r"(?:There is|The (\S+) (?:holds|contains)|You open the (\S+), revealing) ([^.]*?)"
    r"(?: on the floor)?\."
)
_LOCKED = re.compile(r"You have to unlock the (\S+) with the (\S+) first")
_NOT_SEEN = re.compile(r"You (?:have to unlock|need to take|can't) [^.]*\.")
_PORTABLE = re.compile(r"thing|snack|key|[A-Z]-key")
_TOLD_PLACE = re.compile(r"take the (\S+) (?:from|in) ")
MAX_LOOKS = 2
"""In a row: what is not shown then is guessed."""
_BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}


class SearchingExpert:
    """Follows one episode of `game`, which must have its expert."""

    def __init__(self, game: TextWorldEnv, goal: str) -> None:
        placed = _TOLD_PLACE.search(goal)
        self._game = game
        self._wanted = [
            name for name in _NAME.findall(goal) if not (placed and name == placed[1])
        ]  # where that is need not be found out
        self._seen: set[str] = set()
        self._room = ""
        self._last = ""
        self._ways: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._exits: defaultdict[str, list[str]] = defaultdict(list)
        self._closed: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        """By room, what is closed there, and of a door the direction."""
        self._keys: dict[str, str] = {}
        """By what is known to be locked."""
        self._tried: set[str] = set()
        self._takes: dict[str, tuple[str, str]] = {}
        """By thing that has been seen to lie somewhere: (room, command that takes it)."""
        self._shown = set(_NAME.findall(goal))
        self._shown_here = ""
        """Since it is in this room."""
        self._looks = 0

    def action(self, shown: str) -> str | None:
        """The next command after the agent was shown this, or None where the game can no longer be
        won.

        What it knows is read from what the game says, unperturbed.
        """
        plan = self._game.expert_plan()
        if not plan:
            return None
        self._read(self._game.render())
        self._shown.update(_NAME.findall(shown))
        self._shown_here += f"\n{shown}"
        command = plan[0] if self._all_seen(plan) else self._search() or plan[0]
        return "look" if self._looks < MAX_LOOKS and self._hidden(command) else command

    def done(self, command: str) -> None:
        """`command` is what is done now."""
        self._last = command
        self._looks = self._looks + 1 if command == "look" else 0

    def _hidden(self, command: str) -> bool:
        """Whether the command needs an exit or a thing that this room's description has and the
        agent was not shown.
        """
        if command.startswith("go "):
            way = command.removeprefix("go ")
            return way not in self._ways[self._room] and way not in self._shown_here
        described = {
            *self._closed[self._room],
            *(thing for thing, (room, _) in self._takes.items() if room == self._room),
        }
        return bool(described & set(_NAME.findall(command)) - self._shown)

    def _read(self, text: str) -> None:
        self._seen.update(_NAME.findall(_NOT_SEEN.sub("", text)))
        if header := _ROOM.search(text):
            self._enter(header[1].lower())
        for name, _, direction in _CLOSED.findall(text):
            self._closed[self._room].setdefault(name, direction or None)
        self._exits[self._room] += [
            way for way in _EXIT.findall(text) if way not in self._exits[self._room]
        ]
        for place, opened, things in _LYING.findall(text):
            for thing in filter(_PORTABLE.match, _NAME.findall(things)):
                self._takes[thing] = (
                    self._room,
                    f"take {thing} from {place or opened}" if place or opened else f"take {thing}",
                )
        for name, key in _LOCKED.findall(text):
            self._keys[name] = key
        self._learn_from_last(text)
        self._last = ""

    def _enter(self, room: str) -> None:
        direction = self._last.removeprefix("go ")
        if direction in _BACK and room != self._room:
            self._ways[self._room][direction] = room
            self._ways[room][_BACK[direction]] = self._room
        if room != self._room:
            self._shown_here = ""
        self._seen.add(room)
        self._room = room

    def _learn_from_last(self, text: str) -> None:
        verb, _, rest = self._last.partition(" ")
        name = rest.split(" ")[0]
        self._tried.add(self._last)
        if verb == "open" and (
            f"You open {name}" in text or f"You open the {name}" in text or "welded" in text
        ):
            direction = self._closed[self._room].pop(name, None)
            self._exits[self._room] += [direction] if direction and "You open" in text else []
        elif verb == "unlock" and "You unlock" in text:
            self._keys.pop(name, None)
            self._tried.discard(f"open {name}")
        elif verb == "take" and re.search(r"You (?:take|pick up) ", text):
            self._takes.pop(name, None)
        elif verb == "go" and name in self._exits[self._room] and not _ROOM.search(text):
            self._exits[self._room].remove(name)

    def _all_seen(self, plan: tuple[str, ...]) -> bool:
        """Whether the plan up to its first command that is no walk needs nothing that has not been
        seen.
        """
        room: str | None = self._room
        for number, command in enumerate(plan):
            if not command.startswith("go "):
                return self._known(command) and (
                    not command.startswith("open ") or self._has_reason(command, plan[number + 1 :])
                )
            room = self._ways[room or ""].get(command.removeprefix("go "))
            if room is None:
                return False
        return True

    def _known(self, command: str) -> bool:
        """Whether all names in the command have been seen. The agent might hold a key that the goal
        names, so such a key needs not be seen for one attempt.
        """
        unseen = set(_NAME.findall(command)) - self._seen
        if "lock " in command and command not in self._tried:
            unseen -= {name for name in self._wanted if "key" in name}
        return not unseen

    def _has_reason(self, opening: str, then: tuple[str, ...]) -> bool:
        """Whether the goal names the thing to open, or a thing that the plan takes from it has been
        seen.
        """
        name = opening.removeprefix("open ")
        if name in self._wanted:
            return True
        takes = [command for command in then if command.startswith("take ")]
        from_it = [command for command in takes if command.endswith(f"from {name}")]
        return bool(from_it) and self._known(from_it[0])

    def _search(self) -> str | None:
        """A command here, or the first step to the nearest room where something is left to try;
        boxes last if no thing is missing.
        """
        missing = [name for name in self._wanted if name not in self._seen]
        contained = not missing or any(_PORTABLE.match(name) for name in missing)
        return self._nearest(boxes=contained) or self._nearest(boxes=True)

    def _nearest(self, boxes: bool) -> str | None:
        paths = deque([(self._room, "")])
        reached = {self._room}
        while paths:
            room, first = paths.popleft()
            if command := self._untried(room, boxes):
                return first or command
            for direction, there in self._ways[room].items():
                if there not in reached:
                    reached.add(there)
                    paths.append((there, first or f"go {direction}"))
        return None

    def _untried(self, room: str, boxes: bool) -> str | None:
        closed = self._closed[room]
        commands = []
        if boxes:
            commands += [self._try(name) for name, direction in closed.items() if not direction]
        for key in self._needed():
            place, command = self._takes.get(key, ("", ""))
            if place == room:
                commands.append(command)
        commands += [f"go {way}" for way in self._exits[room] if way not in self._ways[room]]
        commands += [self._try(name) for name, direction in closed.items() if direction]
        return next((command for command in commands if command), None)

    def _needed(self) -> list[str]:
        return [key for key in self._keys.values() if key in self._takes]

    def _try(self, name: str) -> str | None:
        """Open it; if it is locked, unlock it with the key that is held, or might be: what the
        episode starts with is not told.
        """
        key = self._keys.get(name)
        if key is None:
            return f"open {name}" if f"open {name}" not in self._tried else None
        unlock = f"unlock {name} with {key}"
        held = key in self._seen and key not in self._takes
        return unlock if held or (key not in self._seen and unlock not in self._tried) else None
