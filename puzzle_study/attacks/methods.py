"""The one table of what can perturb an image: every attack of torchattacks, with what it can do or why it is not run.

The table drives the runner, the tests and docs/attacks.md. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from puzzle_study.errors import cut, suggestion

Norm = Literal["linf", "l2"]

SPSA_SAMPLES = 16


@dataclass(frozen=True)
class Method:
    """A method that looks for δ inside a ball of fixed radius.

    Attributes:
        torchattacks: class in torchattacks; None for what is ours.
        arguments: argument of that class by what fills it: ``epsilon`` (radius in the norm), ``alpha`` (step),
            ``steps``, ``iterations`` (rounds of SPSA) or ``seed``.
        constants: further arguments, always the same.
        norm: the ball, max-norm or Euclidean.
        iterated: takes several steps, so that its best iterate is kept and not its last.
        random: begins or samples at random, so that restarts differ.
        black_box: asks for scores only, never for gradients.
        adapts_step: chooses its own step size.
        one_step_size: step as a fraction of ε if `attacks.step_size` does not apply.
        best_loss: called as ``perturb(x, y, best_loss=True)[1]``; the plain call stops at the threshold.
        note: what to know before reading its numbers.
    """

    torchattacks: str | None
    arguments: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    norm: Norm = "linf"
    iterated: bool = True
    random: bool = True
    black_box: bool = False
    adapts_step: bool = False
    one_step_size: float = 1.0
    best_loss: bool = False
    note: str = ""

    @property
    def uses_gradient(self) -> bool:
        """Whether it could be fooled by a detector that hides its gradients."""
        return self.torchattacks is not None and not self.black_box


_STEPWISE = {"eps": "epsilon", "alpha": "alpha", "steps": "steps"}
_APGD = {"eps": "epsilon", "steps": "steps", "seed": "seed"}

METHODS: Mapping[str, Method] = {
    "fgsm": Method(
        "FGSM", {"eps": "epsilon"}, iterated=False, random=False, note="One step of the whole ε: the paper's."
    ),
    "ffgsm": Method(
        "FFGSM",
        {"eps": "epsilon", "alpha": "alpha"},
        iterated=False,
        one_step_size=1.25,
        note="One step of 1.25 ε from a random start.",
    ),
    "rfgsm": Method("RFGSM", _STEPWISE, note="PGD from random signs of the size of one step."),
    "bim": Method("BIM", _STEPWISE, random=False, note="PGD without a random start."),
    "pgd": Method("PGD", _STEPWISE, note="The best iterate is kept, not the last."),
    "mifgsm": Method("MIFGSM", _STEPWISE, random=False, note="Momentum."),
    "apgd": Method(
        "APGD",
        _APGD,
        {"norm": "Linf", "loss": "ce", "n_restarts": 1},
        adapts_step=True,
        best_loss=True,
        note="Cross-entropy and the best loss; called plainly it returns images below the threshold unchanged.",
    ),
    # The default, 1e-10, is more than the norm of a small but useful gradient.
    "pgdl2": Method("PGDL2", _STEPWISE, {"eps_for_division": 1e-30}, norm="l2", note="PGD in the Euclidean ball."),
    "apgdl2": Method(
        "APGD",
        _APGD,
        {"norm": "L2", "loss": "ce", "n_restarts": 1},
        norm="l2",
        adapts_step=True,
        best_loss=True,
        note="APGD in the Euclidean ball.",
    ),
    "square": Method(
        "Square",
        {"eps": "epsilon", "n_queries": "steps", "seed": "seed"},
        {"norm": "Linf", "loss": "margin", "n_restarts": 1},
        black_box=True,
        adapts_step=True,
        note="Random search without gradients: the check on those that use them.",
    ),
    "spsa": Method(
        "SPSA",
        {"eps": "epsilon", "lr": "alpha", "nb_iter": "iterations"},
        {"nb_sample": SPSA_SAMPLES, "max_batch_size": SPSA_SAMPLES},
        black_box=True,
        note="Estimates gradients from scores; missing in torchattacks 3.3.0.",
    ),
    "noise": Method(None, iterated=False, note="Random signs of size ε: the control that every attack must beat."),
}

_NO_RADIUS = "looks for the smallest perturbation that crosses a threshold; an AUROC at a fixed ε needs a fixed radius"
_NO_BALL = "bounds the number of changed pixels, not their change: no ε"
_MORE_CLASSES = "needs more than two classes"
_RGB = "smooths with a kernel for exactly three channels, for transfer between classifiers"
_TRANSFER = "is made to transfer to another classifier; here the detector itself is attacked: use `mifgsm` or `apgd`"

REFUSED: Mapping[str, str] = {
    "VANILA": "returns the image",
    "GN": "adds Gaussian noise, which has no bound; `noise`, random signs of size ε, is the control here",
    "TPGD": "leaves the clean prediction in either direction: a normal image may get a lower score",
    "APGDT": f"{_MORE_CLASSES}: its loss compares the largest logits (DLR)",
    "AutoAttack": f"{_MORE_CLASSES} (DLR) and drops images at the threshold; use `apgd` and `square`",
    "UPGD": "is PGD with momentum, the same as MIFGSM here; use `mifgsm`",
    "EOTPGD": "takes each gradient twice, and both are the same since no detector draws at random here; use `pgd`",
    "NIFGSM": _TRANSFER,
    "SINIFGSM": _TRANSFER,
    "VMIFGSM": _TRANSFER,
    "VNIFGSM": _TRANSFER,
    "DIFGSM": _TRANSFER,
    "TIFGSM": _RGB,
    "PIFGSM": _RGB,
    "PIFGSMPP": _RGB,
    "Jitter": "divides the logits by their largest: with two opposite logits nothing is left to differentiate",
    "PGDRS": "attacks classifiers behind randomised smoothing, which no detector here is",
    "PGDRSL2": "attacks classifiers behind randomised smoothing, which no detector here is",
    "CW": _NO_RADIUS,
    "DeepFool": _NO_RADIUS,
    "FAB": _NO_RADIUS,
    "EADL1": _NO_RADIUS,
    "EADEN": _NO_RADIUS,
    "SparseFool": _NO_BALL,
    "OnePixel": _NO_BALL,
    "Pixle": _NO_BALL,
    "JSMA": f"{_NO_BALL}; and it {_MORE_CLASSES}",
    "MultiAttack": "combines attacks by who crosses the threshold; restarts keep the best image by image here",
    "LGV": "trains further models to transfer from",
}


def refusal(method: str) -> str:
    """Return why there is no such method: torchattacks has it but it does not fit, or it is unknown."""
    for name, why in REFUSED.items():
        if name.lower() == method.lower():
            return f"attack method {method} is not run: {name} {why}"
    return f"attack method {cut(method)} is unknown{suggestion(method, METHODS)}; there are {', '.join(METHODS)}"
