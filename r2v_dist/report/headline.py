"""The last lines of a run: who solved how much at which LLM-call rate, and what is promised. The
full table is in the report.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from r2v_dist.config.run import RunConfig
from r2v_dist.episodes import StopReason
from r2v_dist.evaluation.comparison import Comparison
from r2v_dist.evaluation.outcomes import hard_tasks
from r2v_dist.evaluation.results import Findings, Overall
from r2v_dist.object_storage.mirror import shown
from r2v_dist.report.claims import (
    deciding,
    not_kept,
    seeds_words,
    shown_signals,
    standing,
    unplayed,
)
from r2v_dist.report.figures.palette import LABELS, fitting, listed
from r2v_dist.storage import rollouts as rollout_store
from r2v_dist.storage.quarantine import Quarantined
from r2v_dist.storage.run_dir import RunDir, stage_name

HARD_STEPS = 4
_WIDTH = 60
_ENDS = (StopReason.WON, StopReason.LOST, StopReason.STEP_LIMIT)
"""How an episode of a working run ends."""
_TITLES = {"slm_only": "SLM only", "best_of_k": "best of K", "teacher_only": "teacher only"}


def headline(run: RunDir, config: RunConfig, findings: Findings) -> str:
    """At most fifteen lines."""
    if not findings.seeds:
        return f"{shown(run.root)}: no evaluated episodes yet"
    lines = [_title(run, config, findings)]
    lines += [_line(_name(name, config), o) for name, o in _shown(config, findings).items()]
    lines += [f"  {sentence}" for sentence in not_kept(config, findings)]
    lines += _compared(findings)
    lines += _claims(findings)
    lines += [f"  {sentence}" for sentence in unplayed(config, findings)]
    if findings.certificate is not None:
        of_first = "; training seed 0" if config.training_seeds > 1 else ""
        lines.append(f"  certificate: {findings.certificate.line}{of_first}")
    lines += abnormal_ends(run, config)
    lines += _given_up(findings.quarantined)
    return "\n".join([*lines, *_place(run.root / "report" / "index.html")])


def _title(run: RunDir, config: RunConfig, findings: Findings) -> str:
    """What was played."""
    slm = findings.perturbed[0]
    seeds = f"{slm.seeds} perturbation seeds"
    if findings.training_seeds > 1:
        seeds += f" x {findings.training_seeds} training seeds"
    label = "  [SIMULATED policy: not a result about a model]" if config.simulated else ""
    title = f"Test: {slm.tasks} tasks x {seeds}, live{label}"
    if config.teacher.backend == "expert":
        hard = hard_tasks(run.rollouts("evaluate"), HARD_STEPS)
        title += f"; {hard} tasks need {HARD_STEPS} or more expert steps"
    return title


def _shown(config: RunConfig, findings: Findings) -> dict[str, Overall]:
    """Both ends and r2v, in this order; other routers where there is no r2v."""

    def of(names: Sequence[str]) -> dict[str, Overall]:
        known: dict[str, Overall] = {}
        for name in names:
            overall = findings.overall(name, config.evaluate.bootstrap, config.seed)
            if overall is not None:
                known[name] = overall
        return known

    shown_routers = of([*_TITLES, "r2v"])
    if "r2v" in shown_routers:
        return shown_routers
    return shown_routers | of(findings.seeds[0].swept[:6])


def _name(router: str, config: RunConfig) -> str:
    privileged = router == "teacher_only" and config.teacher.backend == "expert"
    return _TITLES.get(router, listed(router)) + (" (privileged oracle)" if privileged else "")


def _place(page: Path) -> list[str]:
    """Where the report is; a browser wants a file."""
    copy = [f"A copy on this machine: {page}"] if shown(page) != str(page) else []
    return [f"Report: {shown(page)}", *copy]


def abnormal_ends(run: RunDir, config: RunConfig) -> list[str]:
    """One line with the share of test episodes that neither the agent nor its step limit ended;
    none where there are none."""
    by_router: dict[str, Counter[str]] = {}
    for seed in range(config.training_seeds):
        folder = run.rollouts(stage_name("evaluate", seed))
        table = rollout_store.read_outcomes(folder, ["t", "router", "stop_reason"])
        routers, reasons = (
            table[name].cast(pa.string()).to_pylist() for name in ("router", "stop_reason")
        )
        for router, reason in zip(routers, reasons, strict=True):
            by_router.setdefault(router, Counter())[reason] += 1
    counts = sum(by_router.values(), Counter[str]())
    clauses = [
        f"{reason.replace('_', ' ')} {counts[reason] / counts.total():.1%}"
        for reason in sorted({*counts} - {*_ENDS})
    ]
    if not clauses:
        return []
    shares = {
        name: 1 - sum(ends[end] for end in _ENDS) / ends.total() for name, ends in by_router.items()
    }
    worst = max(shares, key=lambda name: shares[name])
    most = f"most with {LABELS[worst]}, {shares[worst]:.1%}"
    return [
        f"  NOT ENDED BY THE TASK: {', '.join(clauses)} of {counts.total()} test episodes; {most}"
    ]


def _given_up(entries: Sequence[Quarantined]) -> list[str]:
    """One line that names the tasks whose episodes count as failures though nobody could play
    them; none where there are none.
    """
    if not entries:
        return []
    tasks = ", ".join(sorted({entry.task for entry in entries}))
    stages = ", ".join(dict.fromkeys(entry.stage for entry in entries))
    episodes = sum(entry.episodes for entry in entries)
    first = entries[0]
    return [
        f"  QUARANTINED: {tasks}: {episodes} episodes of {stages} were given up and count as "
        f"failures; the first for {first.detail}"
    ]


def _line(title: str, overall: Overall) -> str:
    """One router; means over training seeds."""
    low, high = overall.success_ci
    if overall.thresholds:
        title += f" @ {', '.join(f'{threshold:.3g}' for threshold in overall.thresholds)}"
    return (
        f"  {title:<{_WIDTH}} {overall.success_rate:6.1%}  [{low:.1%}, {high:.1%}]  worst seed "
        f"{overall.worst_seed_success:.1%}"
        f"  LLM calls {overall.llm_call_rate:.1%}"
    )


def _compared(findings: Findings) -> list[str]:
    """The best baseline of either kind at r2v's cost, the weakest of the differences in frontier
    area, and whom r2v is not ahead of.
    """
    comparisons = findings.comparisons
    if comparisons is None:
        return []
    lines = [_at_cost(c) for c in map(comparisons.best, (False, True)) if c is not None]
    closest = [c for c in map(comparisons.closest, (False, True)) if c is not None]
    if closest:
        areas = "; ".join(map(_by_area, closest))
        lines.append(f"  frontier area: r2v {comparisons.auc:.3f}; closest {areas}")
    return [*lines, *(f"  {sentence}" for sentence in standing(findings))]


def _at_cost(best: Comparison) -> str:
    assert best.matched_success is not None
    assert best.matched_difference is not None
    gap = best.matched_difference
    title = f"best {fitting(best.other)} baseline at that cost: {LABELS[best.other]}"
    ahead = (
        f"r2v is {gap.difference * 100:+.1f} points [{gap.low * 100:+.1f}, {gap.high * 100:+.1f}]"
    )
    p = f"Holm p {'<=' if best.p_holm_at_floor else '='} {best.p_holm:.2g}"
    differ = f"{best.differing_tasks} tasks differ"
    return f"  {title:<{_WIDTH}} {best.matched_success:6.1%}  {ahead}, {p}, {differ}"


def _by_area(closest: Comparison) -> str:
    area = closest.auc_difference
    return (
        f"{fitting(closest.other)}: {LABELS[closest.other]} {closest.auc:.3f}, difference "
        f"{area.difference:+.3f} [{area.low:+.3f}, {area.high:+.3f}]"
    )


def _claims(findings: Findings) -> list[str]:
    """Which signal routes, and whether seeds differ so that CVaR has something to act on."""
    lines = []
    signals = shown_signals(findings)
    if signals is not None:
        of_first = "; training seed 0" if findings.training_seeds > 1 else ""
        lines.append(f"  {signals.words}{of_first}")
    difference = deciding(findings)
    if difference is not None:
        lines.append(f"  {seeds_words(difference)}")
    return lines
