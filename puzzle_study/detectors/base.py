"""The protocol of a detector: what each provides, and what all share.

A detector owns its settings, training, errors and saved values. The base calibrates, reads error matrices,
works in chunks that fit into memory, and saves weights as data.

Shape legend: N images, V validation images, K views, C channels, H and W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from puzzle_study.config.types import DetectorSettings, Reading
from puzzle_study.detectors import scoring
from puzzle_study.detectors.devices import Precision
from puzzle_study.detectors.memory import AtOnce, halving, room
from puzzle_study.errors import UserError

MOST_CHANNELS = 1024
"""Most channels of an image, for arrays with many bands; image files have 1 or 3."""
LEAST_SIDE = 16
"""Smallest side in pixels of a study's images."""
MOST_IMAGES_AT_ONCE = {"cpu": 192, "cuda": 8192}


class TrainingDiverged(Exception):
    """The loss is not finite or too large: the trial fails with its epoch and loss."""


@dataclass(frozen=True)
class Shape:
    """An image's shape, which a detector needs to read it."""

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise ValueError(f"images have 1 to {MOST_CHANNELS} channels, not {self.channels}")
        if min(self.height, self.width) < LEAST_SIDE:
            raise ValueError(f"{self.height}×{self.width} pixels are too few, a side needs at least {LEAST_SIDE}")


@dataclass(frozen=True)
class Traits:
    """What a detector can do.

    Attributes:
        epochs: trained in epochs, or fitted at once.
        differentiable: gradients of its scores reach the image.
        views: looks at an image in K ways that can be made and undone (:class:`Viewed`).
        maps: has anomaly maps.
        features: needs a feature network.
        random: scoring draws at random.
    """

    epochs: bool = False
    differentiable: bool = True
    views: bool = False
    maps: bool = False
    features: bool = False
    random: bool = False


@dataclass(frozen=True)
class Context:
    """What a detector is built for.

    Attributes:
        shape: of the images.
        seed: of weights, order of images and noise.
        device: where it computes.
        precision: arithmetic of its convolutions.
        dataset: name of the data set; empty if the images are an array.
        normal_class: name of the task's normal class.
    """

    shape: Shape
    seed: int
    device: torch.device
    precision: Precision
    dataset: str = ""
    normal_class: str = ""


class Run:
    """What a training reports to. This one keeps nothing; a trial's keeps checkpoints and measures the AUROC."""

    def resumed(self) -> dict[str, Any] | None:
        """Return the last state that an earlier process gave to :meth:`epoch`, or None."""
        return None

    def images(self, images_NCHW: Tensor, epoch: int) -> Tensor:
        """Return the uint8 images of an epoch, from 1: those of the training, or changed anew for each."""
        return images_NCHW

    def epoch(self, row: dict[str, float], state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        """Record an epoch.

        Args:
            row: its number (``epoch``), losses and learning rate, by name.
            state: returns everything that the next epoch depends on, as tensors and plain values.
            last: whether this is the last epoch.
        """


Turn = Callable[[Sequence[int]], None]
"""Receives the numbers of the trainings that the following work is for, of several that run together."""


def to_float(images_NCHW: Tensor) -> Tensor:
    """Return images in [0, 1]: uint8 divided by 255, floats unchanged."""
    return images_NCHW.float().div_(255) if images_NCHW.dtype == torch.uint8 else images_NCHW


class Detector(nn.Module, ABC):
    """A model that is fitted on normal images and gives each image an anomaly score.

    As a module it maps images [N, C, H, W] in [0, 1] to calibrated scores [N]. Every tensor that it needs is a
    parameter or a buffer, so that ``.to(device)`` moves all of them.

    Args:
        shape: of the images.
        reading: how error matrices are read.
        precision: arithmetic of the convolutions.
        views: K, columns of an error matrix.

    Attributes:
        name: in the registry and in study files.
        title: name for people.
        source: paper or textbook.
        Settings: class of its settings.
        traits: what it can do.
        squares: whether its errors are mean squares, to which norms apply, or distances.
        validation_NK: error matrix of the validation images, the divisor of eq. 6.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    Settings: ClassVar[type[DetectorSettings]] = DetectorSettings
    traits: ClassVar[Traits] = Traits()
    squares: ClassVar[bool] = True

    validation_NK: Tensor

    def __init__(
        self, *, shape: Shape, reading: Reading | None = None, precision: Precision = "float32", views: int = 1
    ) -> None:
        super().__init__()
        self.shape = shape
        self.reading = reading or Reading()
        self.precision: Precision = precision
        self.at_once: AtOnce | None = None
        self.register_buffer("validation_NK", torch.ones(1, views))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        # As many validation images as it was calibrated by: an evaluation along the training is enough.
        known_NK = state_dict.get(f"{prefix}validation_NK")
        if isinstance(known_NK, Tensor) and known_NK.shape[1:] == (self.views,):
            self.validation_NK = self.validation_NK.new_empty(known_NK.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)

    # What each detector provides.

    @classmethod
    @abstractmethod
    def build(cls, settings: Any, context: Context) -> Self:
        """Return an unfitted detector.

        Args:
            settings: of the class :attr:`Settings`.
            context: what it is built for.
        """

    @abstractmethod
    def fit(self, images_NCHW: Tensor, run: Run) -> None:
        """Fit on uint8 images, all normal, on the context's device.

        Raises:
            TrainingDiverged: a loss was not finite, or too large.
        """

    @classmethod
    def fit_together(
        cls, detectors: Sequence[Detector], images: Sequence[Tensor], runs: Sequence[Run], turn: Turn
    ) -> list[Exception | None]:
        """Fit several unfitted detectors whose settings are alike (``DetectorSettings.alike``), each on its own images.

        Each has the numbers of a detector fitted alone, to rounding.

        Args:
            detectors: of this class, M of them.
            images: uint8 images of each, as for :meth:`fit`.
            runs: what each reports to.
            turn: is told before each piece of work whom it is for, so that everybody's time and log are its own.

        Returns:
            For each what :meth:`fit` would have raised, or None.
        """
        raise NotImplementedError(f"{cls.__name__} is fitted alone")

    @classmethod
    def fit_along(cls, detectors: Sequence[Detector], images_NCHW: Tensor, runs: Sequence[Run]) -> None:
        """Fit several unfitted detectors by one training, each with the bits of its own training.

        Their settings differ only in what ``DetectorSettings.along`` names, and the training lasts as long as the
        longest. After each epoch every run is told, in order, with the state that the detector's own training would
        have then; its detector is as that training would have left it.

        Args:
            detectors: of this class. A class whose trainings differ in nothing but the epochs gets one, the longest.
            images_NCHW: uint8 images, as for :meth:`fit`.
            runs: what each reports to; they give the same images, and resume after the same epoch.

        Raises:
            TrainingDiverged: a loss was not finite, or too large.
        """
        (detector,), (run,) = detectors, runs
        detector.fit(images_NCHW, run)

    @abstractmethod
    def errors(self, x_NCHW: Tensor) -> Tensor:
        """Return the error matrix of images in [0, 1], float32 [N, K], at least 0, larger for anomalies.

        Differentiable if the trait says so. All images are in memory at once; :meth:`error_matrix` works in chunks.
        """

    def describe(self) -> dict[str, Any]:
        """Return plain values that :meth:`restore` needs besides the tensors of ``state_dict``."""
        return {}

    @classmethod
    @abstractmethod
    def restore(cls, described: Mapping[str, Any], shape: Shape, reading: Reading, precision: Precision) -> Self:
        """Return a detector whose tensors can be loaded, from what :meth:`describe` returned.

        It is called twice, the first time with PyTorch's meta device as the default, on which tensors have sizes
        without memory, so that a file which asks for more memory than its weights is refused.

        Raises:
            ValueError, KeyError, TypeError: the values are invalid; they may come from an untrusted file.
        """

    def chunk_errors(self, x_NCHW: Tensor) -> Tensor:
        """Return :meth:`errors`, for detectors with views of one image that may not fit into memory at once."""
        return self.errors(x_NCHW)

    def views_at_once(self) -> int:
        """Return how many views of images fit the cache or the GPU at once, without gradients."""
        return max(1, room(MOST_IMAGES_AT_ONCE, self.device)) * self.views

    def differentiable_views_at_once(self) -> int:
        """Return how many views fit into memory at once with their gradients."""
        return self.views_at_once()

    def maps(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the error matrix [N, K] of uint8 or [0, 1] images, and their anomaly maps, float32 [N, H, W].

        A map is in units of the score: 1 is the error of a pixel of a typical normal image.

        Raises:
            UserError: the detector has no maps.
        """
        raise UserError(f"{self.title} has no anomaly maps; score without --overlay, or choose another detector")

    # What all share.

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        return self.validation_NK.device

    @property
    def views(self) -> int:
        """K, columns of an error matrix."""
        return self.validation_NK.shape[1]

    def read_by(self, reading: Reading) -> Self:
        """Return a detector that shares this one's tensors and reads error matrices differently."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.reading = reading
        return other

    def of_views(self, count: int | None) -> Self:
        """Return a detector that shares this one's weights and looks at an image in fewer ways.

        Its errors and validation errors are the columns :func:`scoring.chosen_views` of this one's. It may be
        calibrated without changing this one.

        Args:
            count: how many of the K views; None, K or more return this detector.
        """
        if count is None or count >= self.views:
            return self
        other = self.read_by(self.reading)
        other._buffers = dict(self._buffers)
        other.at_once = None
        other._keep_views(scoring.chosen_views(self.views, count))
        other.validation_NK = scoring.seen_by(self.validation_NK, count)
        return other

    def _keep_views(self, kept: Sequence[int]) -> None:
        """Look at an image in these ways only; ``self`` is a copy with the buffers of the original."""
        raise NotImplementedError(f"{self.name} looks at an image in one way")

    def scores(self, error_NK: Tensor) -> Tensor:
        """Return the scores of images from their error matrix, shape [N]; 1 is a typical normal image."""
        return scoring.scores(error_NK, self.validation_NK, self.reading)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the score of each image, shape [N]; differentiable if the trait says so."""
        return self.scores(self.errors(x_NCHW))

    @torch.no_grad()
    def error_matrix(self, images_NCHW: Tensor) -> Tensor:
        """Return the error matrix of uint8 or [0, 1] images, float32 [N, K] on the detector's device.

        If memory runs out it continues with half as many images at once.

        Raises:
            UserError: memory is too small for one image.
        """
        self.eval()
        error_NK = torch.empty(len(images_NCHW), self.views, device=self.device)

        def work(part: slice, x_NCHW: Tensor) -> None:
            error_NK[part] = self.chunk_errors(x_NCHW)

        self.by_chunks(images_NCHW, work)
        return error_NK

    def by_chunks(self, images_NCHW: Tensor, work: Callable[[slice, Tensor], None]) -> None:
        """Do some work on images chunk by chunk, halving the chunks if memory runs out.

        Args:
            images_NCHW: uint8, or floats in [0, 1].
            work: takes the indices of the images and the images in [0, 1] on the detector's device; may be repeated.

        Raises:
            UserError: memory is too small for one view of an image.
        """
        self.at_once = at_once = self.at_once or AtOnce(self.views_at_once())
        done = 0

        def some() -> int:
            part = slice(done, min(done + max(1, at_once.count // self.views), len(images_NCHW)))
            work(part, to_float(images_NCHW[part].to(self.device)))
            return int(part.stop)

        while done < len(images_NCHW):
            done = halving(at_once, some)

    def placed(self, device: torch.device) -> Self:
        """Return the detector moved to a device."""
        return self.to(device)

    def calibrate(self, validation_NCHW: Tensor) -> None:
        """Measure the validation errors, the divisor of eq. 6."""
        self.validation_NK = self.error_matrix(validation_NCHW).clone()


class Viewed(Detector):
    """A detector that looks at an image in K ways that can be undone, which attack2 and the gallery need.

    Shape legend: P pairs of image and view.
    """

    traits = Traits(views=True)

    @abstractmethod
    def prepare(self, x_NCHW: Tensor) -> Tensor:
        """Return images prepared for making views, including padding."""

    @abstractmethod
    def view(self, prepared_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return view k of each prepared image."""

    @abstractmethod
    def every_view(self, prepared_NCHW: Tensor) -> Tensor:
        """Return all views of each prepared image, [N, K, C, H, W]."""

    @abstractmethod
    def undo(self, view_NKCHW: Tensor) -> Tensor:
        """Return all K views of each image, undone, [N, K, C, H, W]."""

    @abstractmethod
    def answer(self, view_PCHW: Tensor) -> Tensor:
        """Return the network's answers to views."""

    @abstractmethod
    def compare(self, answer: Tensor, true_PCHW: Tensor, k_P: Tensor) -> Tensor:
        """Return the errors of answers to view k of the true prepared images, [P]."""

    def picture(self, answer: Tensor) -> Tensor | None:
        """Return answers as images like the prepared ones, or None if they are not images."""
        return None
