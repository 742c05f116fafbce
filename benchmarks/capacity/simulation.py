"""A simulation of a rollout stage: dispatcher, runners, engines and collectors, event by event.

Invariant: a process does one thing at a time, a machine as many as it has cores, an engine computes
as many questions as it has places; everything waits in order of arrival. So the rate that comes out
is a consequence of the costs that go in, and of nothing that was fitted to it.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.capacity.costs import Costs

SHARD_EPISODES = 256


@dataclass(frozen=True)
class Shape:
    """What is simulated.

    An engine answers a question in `answer_s` seconds, `places` at once. A unit has `arms` episodes
    of `steps` steps. Runners and fronts of engines are on `machines` of `cores` each in turn;
    driver and collectors are on the first of them, or `apart` on one more.
    """

    runners: int
    in_flight: int
    engines: int
    places: int
    answer_s: float
    steps: int
    arms: int = 1
    collectors: int = 1
    machines: int = 1
    cores: int = 2
    apart: bool = False


@dataclass(frozen=True)
class Outcome:
    """Steps a second, of units that the driver has taken note of; how busy the busiest process of
    each kind was, as a share of the time; and how long each kind let wait what came to it, in
    seconds on average.
    """

    steps_per_s: float
    busy: dict[str, float]
    wait_s: dict[str, float]


Then = Callable[[], None]


class Clock:
    """What is to happen, and when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = 0
        self._events: list[tuple[float, int, Then]] = []

    def at(self, when: float, then: Then) -> None:
        """Have it happen."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, then))

    def go_on(self, until: float) -> None:
        """Until this time, or until nothing is to happen any more."""
        while self._events and self._events[0][0] <= until:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Machine:
    """Cores, each free from a time on."""

    def __init__(self, cores: int) -> None:
        self._free = [0.0] * cores

    def run(self, now: float, seconds: float) -> float:
        """When a job ends that could begin now."""
        end = max(now, self._free[0]) + seconds
        heapq.heapreplace(self._free, end)
        return end


class Process:
    """One thing at a time, on a machine, in order of arrival."""

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self._clock = clock
        self._machine = machine
        self._queue: deque[tuple[float, float, Then]] = deque()
        self._works = False
        self.busy_s = 0.0
        self.waited_s = 0.0
        self.jobs = 0

    def run(self, seconds: float, then: Then) -> None:
        """Do something that takes so long, and then go on."""
        self._queue.append((self._clock.now, seconds, then))
        if not self._works:
            self._next()

    def _next(self) -> None:
        self._works = True
        arrived, seconds, then = self._queue.popleft()
        end = self._machine.run(self._clock.now, seconds)
        self.busy_s += seconds
        self.waited_s += end - seconds - arrived
        self.jobs += 1

        def done() -> None:
            self._works = False
            then()
            if self._queue and not self._works:
                self._next()

        self._clock.at(end, done)


class Engine(Process):
    """A front, which is a process, and places that compute without a core of the machine."""

    def __init__(self, clock: Clock, machine: Machine, places: int, answer_s: float) -> None:
        super().__init__(clock, machine)
        self._places = [0.0] * places
        self._answer_s = answer_s
        self.computed_s = 0.0

    def answer(self, front_s: float, then: Then) -> None:
        """Answer a question, and then go on."""

        def admitted() -> None:
            end = max(self._clock.now, self._places[0]) + self._answer_s
            heapq.heapreplace(self._places, end)
            self.computed_s += self._answer_s
            self._clock.at(end, then)

        self.run(front_s, admitted)


class Simulation:
    """One stage of a shape."""

    def __init__(self, shape: Shape, costs: Costs, seed: int = 0) -> None:
        self._shape = shape
        self._costs = costs
        self._rng = random.Random(seed)
        self._clock = clock = Clock()
        self._machines = [Machine(shape.cores) for _ in range(shape.machines)]
        first = Machine(shape.cores) if shape.apart else self._machines[0]
        self._driver = Process(clock, first)
        self._collectors = [Process(clock, first) for _ in range(shape.collectors)]
        self._runners = [Process(clock, self._machine(n)) for n in range(shape.runners)]
        self._engines = [
            Engine(clock, self._machine(n), shape.places, shape.answer_s)
            for n in range(shape.engines)
        ]
        self._buffered = [0] * shape.collectors
        self._ready: list[int] = []
        """Runners of units whose reports the driver has not read."""
        self._turning = False
        self._left = 0
        self._under_way = 0
        self._steps = 0

    def play(self, units: int) -> Outcome:
        """All units, from warm runners to the last commit."""
        self._left = units
        for _ in range(self._shape.in_flight):
            for runner in range(self._shape.runners):
                self._start(runner)
        self._clock.go_on(math.inf)
        return self._outcome(self._clock.now)

    def watch(self, warm_up_s: float, seconds: float) -> Outcome:
        """A stretch of a stage without end, which is in the midst of its units."""
        self._left = 10**12
        steps = self._shape.steps * self._shape.arms
        for runner in range(self._shape.runners):
            for _ in range(self._shape.in_flight):
                self._under_way += 1
                left = self._rng.randrange(steps) + 1
                begun = self._rng.random() * self._shape.answer_s
                self._clock.at(begun, partial(self._step, runner, left))
        self._clock.go_on(warm_up_s)
        self._forget()
        self._clock.go_on(warm_up_s + seconds)
        return self._outcome(seconds)

    def _machine(self, number: int) -> Machine:
        return self._machines[number % len(self._machines)]

    def _start(self, runner: int) -> None:
        if self._left:
            self._left -= 1
            self._under_way += 1
            steps = self._shape.steps * self._shape.arms
            begun = partial(self._step, runner, steps)
            self._runners[runner].run(self._costs.runner_unit, begun)

    def _step(self, runner: int, left: int) -> None:
        """A runner's part of a step, and then the engine's."""
        costs = self._costs
        self._machine(runner).run(self._clock.now, costs.machine_step)
        own = costs.runner_step + costs.runner_engine * len(self._engines)
        self._runners[runner].run(own, partial(self._ask, runner, left))

    def _ask(self, runner: int, left: int) -> None:
        engine = self._engines[self._rng.randrange(len(self._engines))]
        engine.answer(self._costs.engine_step, partial(self._answered, runner, left))

    def _answered(self, runner: int, left: int) -> None:
        if left > 1:
            self._step(runner, left - 1)
        else:
            self._deliver(runner)

    def _deliver(self, runner: int) -> None:
        """Give the unit's episodes to the collector for its task, and wait until it has them."""
        place = self._rng.randrange(len(self._collectors))
        steps = self._shape.steps * self._shape.arms
        seconds = self._costs.collector_unit + self._costs.collector_step * steps
        self._buffered[place] += self._shape.arms
        if self._buffered[place] >= SHARD_EPISODES:
            self._buffered[place] = 0
            seconds += self._costs.commit
        self._collectors[place].run(seconds, partial(self._report, runner))

    def _report(self, runner: int) -> None:
        self._ready.append(runner)
        if not self._turning:
            self._turn()

    def _turn(self) -> None:
        """One turn of the driver's loop: it reads all reports that are there, and fills up."""
        self._turning = True
        runners = self._ready
        self._ready = []
        costs = self._costs
        size = self._shape.runners
        seconds = costs.driver_loop + costs.driver_loop_runner * size
        seconds += costs.driver_loop_under_way * self._under_way
        seconds += len(runners) * (costs.driver_unit + costs.driver_unit_runner * size)
        self._driver.run(seconds, partial(self._turned, runners))

    def _turned(self, runners: list[int]) -> None:
        for runner in runners:
            self._under_way -= 1
            self._steps += self._shape.steps * self._shape.arms
            self._start(runner)
        self._turning = False
        if self._ready:
            self._turn()

    def _forget(self) -> None:
        """What was before is no part of the outcome."""
        self._steps = 0
        for process in (self._driver, *self._collectors, *self._runners, *self._engines):
            process.busy_s = process.waited_s = 0.0
            process.jobs = 0
        for engine in self._engines:
            engine.computed_s = 0.0

    def _outcome(self, seconds: float) -> Outcome:
        kinds: dict[str, Sequence[Process]] = {
            "driver": [self._driver],
            "collector": self._collectors,
            "runner": self._runners,
            "engine front": self._engines,
        }
        busiest = {kind: max(one.busy_s for one in of) for kind, of in kinds.items()}
        busy = {kind: min(1.0, busy_s / seconds) for kind, busy_s in busiest.items()}
        computed_s = sum(engine.computed_s for engine in self._engines)
        busy["engine"] = computed_s / (seconds * self._shape.places * len(self._engines))
        waits = {
            kind: sum(one.waited_s for one in of) / max(1, sum(one.jobs for one in of))
            for kind, of in kinds.items()
        }
        return Outcome(self._steps / seconds, busy, waits)
