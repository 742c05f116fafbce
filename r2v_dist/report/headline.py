"""The last lines of a run: who solved how much at which LLM-call rate, and what is promised. The full table is in the report."""

from r2v_dist.config import RunConfig
from r2v_dist.evaluation import RouterRow, hard_tasks
from r2v_dist.report.findings import Findings
from r2v_dist.report.palette import LABELS
from r2v_dist.run_dir import RunDir

HARD_STEPS = 4
_WIDTH = 44


def headline(run: RunDir, config: RunConfig, found: Findings) -> str:
    """At most a dozen lines."""
    slm = found.first("slm_only")
    if slm is None:
        return f"{run.root}: no evaluated episodes yet"
    label = "  [SIMULATED policy: not a result about a model]" if config.simulated else ""
    lines = [f"Test: {slm.tasks} tasks x {slm.seeds} perturbation seeds, live{label}"]
    if config.teacher.backend == "expert":
        lines[0] += f"; {hard_tasks(run.rollouts('evaluate'), HARD_STEPS)} tasks need {HARD_STEPS} or more expert steps"
    oracle = " (privileged oracle)" if config.teacher.backend == "expert" else ""
    for name, title in (("slm_only", "SLM only"), ("best_of_k", "best of K"), ("teacher_only", "teacher only" + oracle)):
        if rows := [row for row in found.perturbed if row.name == name]:
            lines.append(_line(title, rows))
    if found.selected("r2v") is None:
        swept = {row.name: row for row in found.perturbed if row.selected}
        lines += [_line(f"{LABELS[name]} @ {row.threshold:.3g}", [row]) for name, row in sorted(swept.items())][:6]
    else:
        rows = [row for row in found.perturbed if row.name == "r2v" and row.selected]
        lines.append(_line(f"r2v @ {', '.join(f'{row.threshold:.3g}' for row in rows)} (chosen on validation)", rows))
        lines += _compared(found)
    if found.certificate is not None:
        of_first = "; training seed 0" if found.training_seeds > 1 else ""
        lines.append(f"  certificate: {found.certificate.line}{of_first}")
    return "\n".join([*lines, f"Report: {run.root / 'report' / 'index.html'}"])


def _line(title: str, rows: list[RouterRow]) -> str:
    """One router; several training seeds as their mean, with the hull of their intervals and the worst of their seeds."""
    count = len(rows)
    low, high = min(row.success_ci[0] for row in rows), max(row.success_ci[1] for row in rows)
    success, calls = sum(row.success_rate for row in rows) / count, sum(row.llm_call_rate for row in rows) / count
    mean = f"  mean of {count} training seeds" if count > 1 else ""
    worst = min(row.worst_seed_success for row in rows)
    return f"  {title:<{_WIDTH}} {success:6.1%}  [{low:.1%}, {high:.1%}]  worst seed {worst:.1%}  LLM calls {calls:.0%}{mean}"


def _compared(found: Findings) -> list[str]:
    """The best baseline at r2v's cost, and the weakest of the differences in frontier area."""
    compared = found.comparisons
    if compared is None or compared.best_at_cost is None:
        return []
    best = next(one for one in compared.others if one.other == compared.best_at_cost)
    assert best.matched_success is not None
    assert best.matched_difference is not None
    gap, lines = best.matched_difference, list[str]()
    lines.append(
        f"  {'best baseline at that cost: ' + LABELS[best.other]:<{_WIDTH}} {best.matched_success:6.1%}"
        f"  r2v is {gap.difference * 100:+.1f} points [{gap.low * 100:+.1f}, {gap.high * 100:+.1f}], Holm p = {best.p_holm:.2g}"
    )
    closest = min((one for one in compared.others if one.family == "baseline"), key=lambda one: one.auc_difference.low)
    area = closest.auc_difference
    lines.append(
        f"  frontier area: r2v {compared.auc:.3f}; closest baseline {LABELS[closest.other]} {closest.auc:.3f}"
        f", difference {area.difference:+.3f} [{area.low:+.3f}, {area.high:+.3f}]"
    )
    return lines
