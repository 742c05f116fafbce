"""The machine of engines, nodes and tasks: every sequence of events, against what is promised."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.health import Health, State

LIMIT = 3
REST_S = 10.0
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["strike", "forgive", "die", "restart", "well"]),
        st.sampled_from(["a", "b", "c", "d"]),
        st.floats(0, 30),
    ),
    max_size=40,
)
MOVES = {
    State.HEALTHY: {State.HEALTHY, State.SUSPECT, State.DEAD},
    State.SUSPECT: {State.HEALTHY, State.SUSPECT, State.DEAD},
    State.DEAD: {State.DEAD, State.RESTARTING},
    State.RESTARTING: {State.HEALTHY, State.RESTARTING, State.DEAD},
}


def apply(health: Health, event: str, cause: str, now: float) -> None:
    match event:
        case "strike":
            health.strike(cause, now)
        case "forgive":
            health.forgive(cause)
        case "die":
            health.die(now)
        case "restart":
            health.restart(now)
        case "well":
            health.well()


@given(EVENTS)
def test_it_moves_along_its_arrows_alone(events: list[tuple[str, str, float]]) -> None:
    health, now = Health(LIMIT, REST_S), 0.0
    causes = set[str]()
    died_at = 0.0
    for event, cause, later in events:
        now += later
        before = health.state
        apply(health, event, cause, now)
        assert health.state in MOVES[before]
        if event == "strike" and before is not State.DEAD:
            causes.add(cause)
        elif event == "forgive":
            causes.discard(cause)
        elif event == "well" and before is not State.DEAD:
            causes.clear()
        if before is not State.DEAD and health.state is State.DEAD:
            died_at = now
            assert event == "die" or before is State.RESTARTING or len(causes) >= LIMIT
        if health.state is State.SUSPECT:
            assert 0 < len(causes) < LIMIT
        if before is State.DEAD and health.state is State.RESTARTING:
            assert now - died_at >= REST_S


def test_each_death_doubles_the_rest() -> None:
    health, now = Health(1, REST_S), 0.0
    for rest_s in (10.0, 20.0, 40.0, 80.0):
        health.strike("a unit", now)
        assert not health.restart(now + rest_s - 0.1)
        assert health.restart(now + rest_s)
        now += rest_s


def test_the_same_cause_strikes_once() -> None:
    health = Health(LIMIT)
    for _ in range(5):
        health.strike("one unit", 0.0)
    assert (health.state, health.strikes) == (State.SUSPECT, 1)
    health.forgive("one unit")
    assert health.state is State.HEALTHY
