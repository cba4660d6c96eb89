"""``python -m benchmarks.search``: is the search as good as plain Optuna, and what does a race save?

A cheap synthetic objective stands for training: a smooth function of λ, ε and the learning rate with a peak, plus an
offset of each class and noise of each trial. Everything but the training is the tool's own: plan, searcher, race.
Regret is the peak's value minus the true value of the winner, in points of AUROC.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import optuna
from scipy import stats

from puzzle_study.config import read
from puzzle_study.datasets import TaskSpec
from puzzle_study.detectors.puzzle_ae.settings import PuzzleSettings
from puzzle_study.detectors.scoring import AGGREGATIONS, NORMS
from puzzle_study.results import Results, content_key
from puzzle_study.study.plan import Plan
from puzzle_study.trials.record import Record
from puzzle_study.trials.spec import TrialSpec

TASKS = tuple(TaskSpec("digits", str(number)) for number in range(5))
SEEDS = (0, 1)
NOISE = 0.01
STARTUP = 5
SPACE = {
    "train.lambda": (1e-3, 1.0),
    "train.learning_rate": (1e-4, 1e-2),
}


def truth(values: Mapping[str, float]) -> float:
    """Return what a configuration is worth in truth; 0.95 at the peak."""
    distance = math.log10(values["train.lambda"] / 0.03) ** 2 / 4
    distance += math.log10(values["train.learning_rate"] / 2e-3) ** 2
    return 0.95 - 0.1 * (1 - math.exp(-distance)) - 0.2 * (values["train.adversary.epsilon"] - 0.08) ** 2 / 0.01


def measured(values: Mapping[str, float], task: str, seed: int, repeat: int) -> float:
    """Return what one trial measures: the truth, less for harder classes, and noise that the trial's name fixes."""
    name = content_key({**values, "task": task, "seed": seed, "repeat": repeat})
    noise = np.random.default_rng(int(name, 16)).normal(scale=NOISE)
    return truth(values) - 0.02 * int(task) + float(noise)


def ours(repeat: int, configurations: int, *, lookahead: int, racing: bool) -> tuple[float, int]:
    """Return the winner's true value and the number of trials, through the plan of a study."""
    search = f"configurations: {configurations}, seed: {repeat}, startup: {STARTUP}, lookahead: {lookahead}"
    text = (
        f"data: {{name: digits}}\nreferences: []\nseeds: {list(SEEDS)}\n"
        f"search: {{{search}{', racing: {}' if racing else ''}, space: {{\n"
        "  train.lambda: {log_uniform: [1.0e-3, 1.0]}, train.learning_rate: {log_uniform: [1.0e-4, 1.0e-2]},\n"
        "  train.adversary.epsilon: {uniform: [0.01, 0.2]}}}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.yaml"
        path.write_text(text, encoding="utf-8")
        plan = Plan(read.load(path), TASKS, "0" * 16, Results(Path(folder) / "results"))
        while (spec := plan.take()) is not None:
            plan.done(spec.key, _record(spec, repeat))
    winner = plan.winner()
    assert winner is not None
    return truth(_values(winner[0].trials[0])), plan.finished()


def plain_optuna(repeat: int, configurations: int) -> tuple[float, int]:
    """Return the same for Optuna alone, told the mean of the same trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=repeat, n_startup_trials=STARTUP)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def objective(trial: optuna.trial.Trial) -> float:
        values = {name: trial.suggest_float(name, *ends, log=True) for name, ends in SPACE.items()}
        values["train.adversary.epsilon"] = trial.suggest_float("train.adversary.epsilon", 0.01, 0.2)
        return float(np.mean([measured(values, task.normal_class, seed, repeat) for task in TASKS for seed in SEEDS]))

    # The default configuration, which a study always trains, is told here too.
    study.enqueue_trial({"train.lambda": 0.02, "train.learning_rate": 1e-3, "train.adversary.epsilon": 0.1})
    study.optimize(objective, n_trials=configurations + 1)
    return truth(study.best_params), (configurations + 1) * len(TASKS) * len(SEEDS)


def _values(spec: TrialSpec) -> dict[str, float]:
    assert isinstance(spec.settings.own, PuzzleSettings)
    train = spec.settings.own.train
    return {
        "train.lambda": train.lambda_,
        "train.learning_rate": train.learning_rate,
        "train.adversary.epsilon": train.adversary.epsilon,
    }


def _record(spec: TrialSpec, repeat: int) -> Record:
    value = measured(_values(spec), spec.task.normal_class, spec.seed, repeat)
    reading = {name: {"selection": value, "auroc": value} for name in AGGREGATIONS}
    return Record(spec, "finished", metrics=dict.fromkeys(NORMS, reading))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repeats", default=20, show_default=True, help="Searches with different seeds.")
@click.option("--configurations", default=40, show_default=True, help="Budget of each, besides the default.")
def main(repeats: int, configurations: int) -> None:
    """Compare searches. Example: python -m benchmarks.search --repeats 20 --configurations 40"""
    ways: dict[str, Callable[[int], tuple[float, int]]] = {
        "plain Optuna, one at a time": lambda seed: plain_optuna(seed, configurations),
        "ours, lookahead 1": lambda seed: ours(seed, configurations, lookahead=1, racing=False),
        "ours, lookahead 4": lambda seed: ours(seed, configurations, lookahead=4, racing=False),
        "ours, lookahead 4, racing": lambda seed: ours(seed, configurations, lookahead=4, racing=True),
    }
    found = {name: np.array([way(seed) for seed in range(repeats)]) for name, way in ways.items()}
    regret = {name: 100 * (0.95 - values[:, 0]) for name, values in found.items()}
    click.echo(f"{repeats} searches of {configurations} configurations, {len(TASKS) * len(SEEDS)} trials each")
    for name, values in found.items():
        click.echo(
            f"{name:30s} regret {regret[name].mean():.2f} (median {np.median(regret[name]):.2f}) points, "
            f"{values[:, 1].mean():.0f} trials"
        )
    for name, other in (
        ("ours, lookahead 1", "plain Optuna, one at a time"),
        ("ours, lookahead 4", "plain Optuna, one at a time"),
        ("ours, lookahead 4, racing", "ours, lookahead 4"),
    ):
        change = regret[name] - regret[other]
        p = float(stats.wilcoxon(change, zero_method="zsplit").pvalue) if np.any(change) else 1.0
        saved = 1 - found[name][:, 1].mean() / found[other][:, 1].mean()
        click.echo(
            f"{name} against {other}: regret {change.mean():+.2f} points (two-sided paired signed-rank p {p:.2f}), "
            f"{100 * saved:.0f} % of the trials saved"
        )


if __name__ == "__main__":
    main()
