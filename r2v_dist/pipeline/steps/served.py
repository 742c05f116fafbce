"""The stage that learns from served traffic (docs/gateway.md).

    served  a request log, router  -> checkpoints/router  a regression on judged conversations

Invariant: the outcome of a conversation labels a state only if the SLM acted from there to the end,
with the weight 1 / the probability of that; so labelled states stand for all that were visited. The
stage hands on the routers of earlier stages as they are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from r2v_dist.errors import UsageError
from r2v_dist.evaluation.off_policy import LEAST, LoggedConversation
from r2v_dist.labels.table import LabelTable
from r2v_dist.pipeline.context import Context
from r2v_dist.pipeline.steps.router import hysteresis_of, last_on_labels
from r2v_dist.router.features import FEATURE_NAMES, FEATURE_VERSION
from r2v_dist.router.logistic import Outcomes, train_logistic
from r2v_dist.seeding import rng_for
from r2v_dist.serving.log import read_log
from r2v_dist.serving.log_traffic import LoggedTraffic, logged_traffic
from r2v_dist.storage.routers import publish_router

NAME = "logistic_served"
_HELD_OUT = 0.25
"""Share of the draws that calibrate what the others teach."""


def served(context: Context) -> dict[str, Any]:
    """Fit and publish. Raises UsageError for a log that tells nothing of this run's SLM."""
    earlier = last_on_labels(context.config)
    assert earlier is not None
    traffic = _traffic(context)
    labels = labels_of(traffic.conversations)
    labels.save(context.run.stage(context.stage) / "train.arrow")
    model = train_logistic(
        *outcomes(labels, context.seed), context.seed, FEATURE_NAMES, FEATURE_VERSION, kind="served"
    )
    root = context.run.checkpoint("router", f"{context.stage}-{context.input_hash[:8]}")
    publish_router(model, root / NAME)
    path = str((root / NAME).relative_to(context.run.root))
    return {
        "routers": context.result(earlier, "routers") | {NAME: path},
        "judged": traffic.judged,
        "left_out": dict(traffic.left_out),
        "states": len(labels),
        "labelled": int(np.isfinite(labels.own_success).sum()),
    }


def labels_of(conversations: Sequence[LoggedConversation]) -> LabelTable:
    """A label table of every state whose features were logged."""
    rows: list[dict[str, Any]] = []
    for number, conversation in enumerate(conversations):
        if conversation.features_TF is None:
            continue
        alone = 1.0
        states = []
        for t in reversed(range(len(conversation.actors))):
            alone = alone * conversation.propensities[t] if conversation.actors[t] == "slm" else 0.0
            states.append(_state(conversation, number, t, alone))
        rows += reversed(states)
    columns: dict[str, Any] = (
        {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    )
    features_NF = np.array(columns.pop("features", ())).reshape(-1, len(FEATURE_NAMES))
    branches = dict.fromkeys(_BRANCHES, [0] * len(rows))
    return LabelTable.of_columns({**_no_rows(), **branches, **columns, "features": features_NF})


_BRANCHES = (
    *("n_s", "s_s", "n_t1", "s_t1", "n_tinf", "s_tinf", "m_tinf"),
    *("n_r", "s_rs", "s_rt", "m_rs", "m_rt"),
)


def _no_rows() -> dict[str, Any]:
    names = ("task", "split", "z", "prefix", "t", "source", "differs", "own_success", "episode")
    return dict.fromkeys((*names, "weight"), ())


def _state(conversation: LoggedConversation, number: int, t: int, alone: float) -> dict[str, Any]:
    """`alone` is the probability that the SLM acts from here to the end where it did, else 0."""
    assert conversation.features_TF is not None
    return {
        "task": conversation.drawn_by,
        "split": "train",
        "z": None,
        "prefix": 0,
        "t": t,
        "source": "served",
        "features": conversation.features_TF[t],
        "differs": None,
        "own_success": conversation.success if alone else None,
        "episode": f"{conversation.drawn_by}/{number}",
        "weight": 1.0 / alone if alone else 1.0,
    }


def outcomes(labels: LabelTable, seed: int) -> tuple[Outcomes, Outcomes]:
    """What is learned from, and what calibrates: states of other draws. Weights are those of the
    labels alone: one by the length of a conversation would depend on how it ended. Raises
    UsageError with too few."""
    has_outcome_N = np.isfinite(labels.own_success)
    held_out_by_draw = {
        draw: rng_for("served", seed, draw).random() < _HELD_OUT for draw in set(labels.task)
    }
    held_out_N = np.array([held_out_by_draw[draw] for draw in labels.task], dtype=np.bool_)

    def part(keep_N: npt.NDArray[np.bool_]) -> Outcomes:
        failure_N = 1.0 - labels.own_success[keep_N]
        draws = len(np.unique(labels.task[keep_N]))
        if draws < LEAST or len(np.unique(failure_N)) < 2:
            raise UsageError(
                f"router.served: {draws} draws of conversations have states from which the SLM "
                f"acted to the end, too few or with one outcome only ({LEAST} are needed to "
                f"learn and as many to calibrate); judge more conversations, or explore a higher "
                f"threshold"
            )
        return Outcomes(
            labels.features_NF[keep_N], failure_N, labels.task[keep_N], labels.weight[keep_N]
        )

    return part(has_outcome_N & ~held_out_N), part(has_outcome_N & held_out_N)


def _traffic(context: Context) -> LoggedTraffic:
    config = context.config
    folder = config.router and config.router.served
    assert folder
    if not any(folder.glob("*.arrows")):
        raise UsageError(f"router.served = {folder}: no request log (*.arrows) is there")
    traffic = logged_traffic(
        read_log(folder), lambda _: None, hysteresis_of(config), with_features=True
    )
    version = context.policy().version
    if traffic.policy != version:
        raise UsageError(
            f"router.served = {folder}: the log is of the SLM {traffic.policy}, and this run "
            f"deploys {version}; serve this run's SLM and log anew"
        )
    return traffic
