"""Shared by detectors that learn which of K transformations was applied to an image.

Shape legend: N images, V validation images, K transformations (views), P pairs of image and view, C channels, H and W
pixels.

The loss L_k of view k is a negative log-likelihood, by default −log softmax of the right answer. Log-likelihoods are
compared by differences, so eq. 6 cannot divide them by their means. The error of a view is therefore
1 + (L_k − m_k) / s, with m_k the mean over the validation images and one s for all views. Each column then has mean 1
on the validation images, eq. 6 divides by 1, and the aggregation ``avg`` orders images like the detector's own score,
the mean of L_k over the views. ``min`` and ``max`` are available without another training.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from puzzle_study.config.types import MOST_EPOCHS, Costs, Images, OneOf, Reading, Section, WantedPrecision, unit
from puzzle_study.detectors import epochs
from puzzle_study.detectors.base import Context, Run, Shape, Traits, Viewed, to_float
from puzzle_study.detectors.devices import Precision, autocast, convolving
from puzzle_study.detectors.epochs import TrainedSettings, seeded
from puzzle_study.detectors.memory import room
from puzzle_study.detectors.scoring import AGGREGATIONS
from puzzle_study.detectors.wide_resnet import BASE, DEPTHS, WideResNet, multiply_adds

MOST_WIDEN, MOST_CLASSES = 16, 1000
# Numbers in the widest feature map for one chunk of views, and how many such maps a block keeps for gradients.
CHUNK_NUMBERS = {"cpu": 5_000_000, "cuda": 400_000_000}
MAPS_PER_BLOCK = 12
ROOM = 2
"""The lowest validation loss is this share of s below the mean, so that lower errors are positive too."""

Epochs = Annotated[
    int, Field(ge=0, le=MOST_EPOCHS, json_schema_extra=unit("epochs"), description="Passes over the images.")
]
BatchSize = Annotated[
    int, Field(ge=1, le=4096, json_schema_extra=unit("images"), description="Transformed images in a step.")
]
Views = Annotated[
    int,
    Field(
        ge=1,
        le=MOST_CLASSES,
        json_schema_extra=unit("transformations"),
        description="Transformations of each image in an epoch, spread evenly over all K; K: every one once.",
    ),
]
Rate = Annotated[
    float, Field(gt=0, le=1, json_schema_extra=unit("–"), description="The optimiser's learning rate at the start.")
]
Decay = Annotated[float, Field(ge=0, le=1, json_schema_extra=unit("–"), description="L2 penalty on the weights.")]
Optimiser = Callable[[Iterable[nn.Parameter], "Train"], torch.optim.Optimizer]


class Train(epochs.Train):
    """The training of the classifier; each detector has its paper's numbers."""

    epochs: Epochs = 100
    batch_size: BatchSize = 128
    views: Views = 1
    learning_rate: Rate = 1e-3
    weight_decay: Decay = 5e-4
    # Not float16: the first steps of a scaled loss are often left out, and PyTorch's fused SGD then goes on with a
    # momentum that nothing has written.
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto",
        description="Arithmetic of the convolutions; `auto`: bfloat16 if the hardware supports it natively, otherwise "
        "float32; `tf32`: float32, but GPUs since Ampere multiply only 10 bits of the mantissa.",
    )


class Model(Section):
    """The wide residual network."""

    depth: Literal[10, 16, 22, 28] = Field(10, json_schema_extra=unit("layers"), description="Layers.")
    widen: int = Field(
        4,
        ge=1,
        le=MOST_WIDEN,
        json_schema_extra=unit("× 16 channels"),
        description="Width: channels of the first group are 16 times this.",
    )


class Score(Section):
    """How the errors of the views become one anomaly score."""

    aggregation: Annotated[str, OneOf(lambda: AGGREGATIONS)] = Field(
        "avg", description="How the K errors become one score; `avg` is the detector's own score."
    )


class PretextSettings(TrainedSettings):
    """Common settings of these detectors."""

    FREE: ClassVar[tuple[str, ...]] = ("score.aggregation",)
    BUDGET: ClassVar[tuple[str, ...]] = ("train.epochs", "train.views", "model.widen")
    LARGE: ClassVar[tuple[str, ...]] = ("train.batch_size", "model.widen")

    train: Train = Field(Train(), description="The training.")
    model: Model = Field(Model(), description="The network.")
    score: Score = Field(Score(), description="The anomaly score.")

    @property
    def reading(self) -> Reading:
        """The aggregation; errors are used as they are."""
        return Reading("mse", self.score.aggregation)

    @property
    def precision_wanted(self) -> WantedPrecision:
        """Arithmetic of the convolutions."""
        return self.train.precision

    @property
    @abstractmethod
    def transformations(self) -> int:
        """K."""

    def costs(self, images: Images) -> Costs:
        """Return a trial's costs, from the network's multiply-adds."""
        model, count = self.model, self.transformations
        look = multiply_adds(pixels=images.pixels, channels=images.channels, depth=model.depth, widen=model.widen)
        return Costs(fit=0.0, epoch=3 * self.train.views * look, score=count * look, views=count)


def adam(parameters: Iterable[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Return Adam."""
    return torch.optim.Adam(parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)


class Pretext(Viewed):
    """A classifier of transformations, which serve as views; each detector defines them.

    Args:
        transformations: K.
        pieces: parts of a view whose features are concatenated for the answer.
        depth: of the network.
        widen: width of the network.
        shape: of the images.
        reading: how error matrices are read.
        precision: arithmetic of the convolutions.

    Attributes:
        optimiser: makes the optimiser for the weights.
        drops: shares of the epochs after which the learning rate is multiplied by ``drop``.
    """

    traits = Traits(epochs=True, views=True)
    optimiser: ClassVar[Optimiser] = adam
    drops: ClassVar[tuple[float, ...]] = ()
    drop: ClassVar[float] = 1.0

    mean_K: Tensor
    scale: Tensor
    view_K: Tensor

    def __init__(
        self,
        *,
        transformations: int,
        pieces: int,
        depth: int,
        widen: int,
        shape: Shape,
        reading: Reading,
        precision: Precision,
    ) -> None:
        super().__init__(shape=shape, reading=reading, precision=precision, views=transformations)
        if depth not in DEPTHS or not 1 <= widen <= MOST_WIDEN or not 1 <= transformations <= MOST_CLASSES:
            raise ValueError(f"no network has depth {depth}, width {widen} and {transformations} answers")
        self.trunk = WideResNet(channels=shape.channels, depth=depth, widen=widen)
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = nn.Linear(self.trunk.features * pieces, transformations)
        nn.init.zeros_(self.head.bias)
        self.depth, self.widen = depth, widen
        self.register_buffer("mean_K", torch.zeros(transformations))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("view_K", torch.arange(transformations), persistent=False)
        self._training: tuple[Train, int] | None = None
        self._unsettled: Tensor | None = None

    # What each detector provides besides views.

    @classmethod
    @abstractmethod
    def made(cls, settings: Any, **network: Any) -> Self:
        """Return a detector with its initial weights.

        Args:
            settings: of the class :attr:`Settings`.
            network: ``shape``, ``depth``, ``widen``, ``reading`` and ``precision`` of the class.
        """

    @abstractmethod
    def views_of(self, prepared_NCHW: Tensor, k_K: Tensor) -> Tensor:
        """Return some views of each prepared image, by their numbers, [N, K, C, H, W]."""

    @abstractmethod
    def features(self, view_PCHW: Tensor) -> Tensor:
        """Return the head's input for views, [P, F]."""

    def losses(self, logit_PK: Tensor, k_P: Tensor) -> Tensor:
        """Return the negative log-likelihood of answers to view k, [P]."""
        return -logit_PK.log_softmax(1).gather(1, k_P[:, None])[:, 0]

    def settle(self, images_NCHW: Tensor) -> None:
        """Learn from the training images what the losses need besides the network; called after each change of it."""

    # What all share.

    @classmethod
    def build(cls, settings: PretextSettings, context: Context) -> Self:
        """Return a detector with its initial weights."""
        model = settings.model
        with seeded(context.seed):
            detector = cls.made(
                settings,
                shape=context.shape,
                depth=model.depth,
                widen=model.widen,
                reading=settings.reading,
                precision=context.precision,
            )
        detector._training = settings.train, context.seed
        return detector.to(context.device)

    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Train on pairs of image and transformation, in a new order each epoch."""
        if self._training is None:
            raise RuntimeError("a detector is fitted once, after build")
        (settings, seed), self._training = self._training, None
        generator = torch.Generator(self.device).manual_seed(seed)
        optimiser = type(self).optimiser(self.parameters(), settings)
        per_image, count = settings.views, self.views

        def step(pair_P1: Tensor) -> Mapping[str, Tensor]:
            pair_P = pair_P1[:, 0]
            drawn_P = torch.randint(count, pair_P.shape, generator=generator, device=self.device)
            # One from each of several equal parts of the transformations, or all if there are as many parts.
            k_P = (pair_P % per_image * count + drawn_P) // per_image
            x_PCHW = to_float(images_NCHW[pair_P // per_image])
            with convolving(self.device, self.precision):
                logit_PK = self.answer(self.view(self.prepare(x_PCHW), k_P))
                loss = F.cross_entropy(logit_PK, k_P)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
            optimiser.step()
            return {"loss": loss.detach(), "accuracy": (logit_PK.argmax(1) == k_P).float().mean()}

        def before(done: int) -> None:
            self.train()
            passed = sum(done >= share * settings.epochs for share in self.drops)
            optimiser.param_groups[0]["lr"] = settings.learning_rate * self.drop**passed
            self._unsettled = images_NCHW

        self._unsettled = images_NCHW
        epochs.train(
            torch.arange(len(images_NCHW) * per_image, device=self.device)[:, None],
            run,
            step,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            parts={"trunk": self.trunk, "head": self.head, "optimiser": optimiser},
            generator=generator,
            before=before,
        )
        self._settle()

    def _settle(self) -> None:
        """Settle if the network has learned since the last time."""
        images_NCHW, self._unsettled = self._unsettled, None
        if images_NCHW is not None:
            with torch.no_grad():
                self.eval().settle(images_NCHW)

    def every_view(self, prepared_NCHW: Tensor) -> Tensor:
        """Return all views of each prepared image, [N, K, C, H, W]."""
        return self.views_of(prepared_NCHW, self.view_K)

    def answer(self, view_PCHW: Tensor) -> Tensor:
        """Return the logits of the transformations, float32 [P, K]."""
        with autocast(self.device, self.precision):
            feature_PF = self.features(view_PCHW)
        logit_PK: Tensor = self.head(feature_PF.float())
        return logit_PK

    def compare(self, answer: Tensor, true_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return the errors of answers to view k, [P], without using the images."""
        return self._errors(self.losses(answer, k_P), k_P)

    def errors(self, x_NCHW: Tensor, views: slice = slice(None)) -> Tensor:
        """Return the differentiable errors of some of the K views of each image in [0, 1], [N, K]."""
        return self._errors(self.all_losses(x_NCHW, views), self.view_K[views])

    def all_losses(self, x_NCHW: Tensor, views: slice = slice(None)) -> Tensor:
        """Return the losses of the views of each image, [N, K]."""
        view_NKCHW = self.views_of(self.prepare(x_NCHW), self.view_K[views])
        return self.losses_of(self.answer(view_NKCHW.flatten(0, 1)), views)

    def losses_of(self, logit_PK: Tensor, views: slice) -> Tensor:
        """Return the losses of answers to some views of each image, ordered by image, [N, K]."""
        k_K = self.view_K[views]
        images = logit_PK.shape[0] // k_K.shape[0]
        return self.losses(logit_PK, k_K.repeat(images)).reshape(images, k_K.shape[0])

    def _errors(self, loss: Tensor, k: Tensor) -> Tensor:
        """Return the errors for losses of view k, in units of s around 1."""
        return (1 + (loss - self.mean_K[k]) / self.scale).clamp_min(0)

    @torch.no_grad()
    def calibrate(self, validation_NCHW: Tensor) -> None:
        """Measure each view's mean loss, and the unit s, on validation images."""
        self._settle()
        self.eval()
        loss_VK = torch.empty(len(validation_NCHW), self.views, device=self.device)

        def work(part: slice, x_NCHW: Tensor) -> None:
            loss_VK[part] = self.by_views(x_NCHW, self.all_losses)

        self.by_chunks(validation_NCHW, work)
        self.mean_K = self.mean_K.index_copy(0, self.view_K, loss_VK.mean(0))
        # Guessing costs log K. A network that is sure of every validation image would otherwise give a tiny unit.
        sure = ROOM * (self.mean_K[self.view_K] - loss_VK).amax()
        self.scale = sure.clamp_min(math.log(max(2, len(self.mean_K))))
        self.validation_NK = self._errors(loss_VK, self.view_K)

    def of_views(self, count: int | None) -> Self:
        """Return a detector with fewer views, settled by all of them."""
        self._settle()
        return super().of_views(count)

    def _keep_views(self, kept: Sequence[int]) -> None:
        self.view_K = self.view_K[kept]

    def chunk_errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the error matrix, with as many views at once as fit into memory."""
        return self.by_views(x_NCHW, self.errors)

    def by_views(self, x_NCHW: Tensor, work: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Return the results of ``work`` for all views, [N, K], with as many at once as fit into memory."""
        assert self.at_once is not None
        count = self.at_once.count
        return torch.cat([work(x_NCHW, slice(start, start + count)) for start in range(0, self.views, count)], dim=1)

    def _widest(self) -> int:
        """Return the size of a view's widest feature map."""
        return self.shape.height * self.shape.width * BASE * self.widen

    def views_at_once(self) -> int:
        """Return how many views go through the network at once."""
        return max(1, room(CHUNK_NUMBERS, self.device) // self._widest())

    def differentiable_views_at_once(self) -> int:
        """Return how many views are in memory at once with their gradients."""
        kept = MAPS_PER_BLOCK * ((self.depth - 4) // 6)
        return max(1, 20 * room(CHUNK_NUMBERS, self.device) // (kept * self._widest()))

    def describe(self) -> dict[str, Any]:
        """Return depth and width of the network."""
        return {"depth": self.depth, "widen": self.widen}

    def placed(self, device: torch.device) -> Self:
        """Move to a device, with the convolutions' weights in the fastest layout there."""
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self.to(device)
