"""`ISNetRegularizer`: the heatmap loss as a term in an existing training loop."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from tqdm.auto import tqdm

from zennit_isnet import calibration
from zennit_isnet.balance import PATIENCE, GradientNorms, LossBalance, RatioWatch, gradient_norms
from zennit_isnet.calibration import DEFAULT_RANGE, Maturity, RelevanceRange
from zennit_isnet.checks import (
    Described,
    check_callable,
    check_count,
    check_has_mask,
    check_images,
    check_masks,
    check_model,
    check_number,
)
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, VanishedRelevanceWarning
from zennit_isnet.formulations import Stochastic, Target
from zennit_isnet.functional import gwrp, total_relevance, validate_foreground
from zennit_isnet.functional.heatmap import HeatmapLoss
from zennit_isnet.lrp.auto_layers import AUTO
from zennit_isnet.lrp.composite import LRPComposite
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import Attribution, LRPAttribution, seeds_of
from zennit_isnet.lrp.taps import INPUT, Place, Places, find_layers
from zennit_isnet.model import buffers_restored, detached, eval_mode, unwrapped

__all__ = ["EveryNth", "ISNetRegularizer"]


class EveryNth(Described):
    """Schedule in which the first calls and then every n-th one are penalised.

    Lazy regularization: a penalty with n times the weight at every n-th step needs the same weight P as one at every
    step. This works once the penalty only has to maintain its effect. But a classifier chooses its features early, and
    three plain steps per penalised step then let the shortcut win. So penalise every step in the first part of the
    training, a third in our runs.

    Parameters
    ----------
    every : int
        n, at least 1.
    start : int, default=0
        Number of first calls that are all penalised, with normal weight.
    calls : int, default=0
        Number of earlier calls, for a resumed training.

    Raises
    ------
    InvalidTypeError
        If a number is not an integer.
    InvalidValueError
        If `every` is smaller than 1, or another number is negative.

    Examples
    --------
    >>> from zennit_isnet.regularizer import EveryNth
    >>> schedule = EveryNth(3, start=2)
    >>> [schedule.advance() for _ in range(9)]
    [1, 1, 3, 0, 0, 3, 0, 0, 3]
    """

    def __init__(self, every: int, start: int = 0, calls: int = 0) -> None:
        check_count("every", every)
        check_count("start", start, low=0)
        check_count("calls", calls, low=0)
        self.every = every
        self.start = start
        self.calls = calls

    @property
    def weight(self) -> int:
        """Factor of the penalty at the next call; 0 if it is not penalised."""
        if self.calls < self.start:
            return 1
        return self.every if (self.calls - self.start) % self.every == 0 else 0

    def advance(self) -> int:
        """Count a call and return its weight."""
        weight = self.weight
        self.calls += 1
        return weight

    def after(self, calls: int) -> EveryNth:
        """Return the same schedule after a number of calls."""
        return EveryNth(self.every, self.start, calls)


MAX_RATIO = 5.0
"""Largest ratio of the penalty's gradient norm to the classification loss's."""

MEASURE_EVERY = 50
"""Training steps between gradient measurements."""


_FAINT = 1e-2
"""Below this fraction of ``c1``, the total relevance leaves the foreground term of the loss almost constant."""

_STREAK = 10
"""Consecutive calls with vanished relevance that trigger a warning."""

_LOOK = 100
"""Calls between checks on an accelerator, because checks synchronise it."""


class VanishingWatch:
    """Warns if the relevance of a layer has almost vanished for several consecutive training calls."""

    def __init__(self) -> None:
        self._calls = 0
        self._streaks: dict[Place, int] = {}

    def due(self, free: bool) -> bool:
        """Count a call and return whether to check it: always on the CPU, occasionally a few in a row elsewhere."""
        self._calls += 1
        return free or self._calls % _LOOK >= _LOOK - _STREAK

    def see(self, totals: Mapping[Place, float], ranges: Mapping[Place, RelevanceRange]) -> None:
        """Count calls with a layer's mean total |relevance| far below its range, and warn after `_STREAK` in a row."""
        for place, total in totals.items():
            c1 = ranges.get(place, DEFAULT_RANGE).c1
            streak = self._streaks[place] = self._streaks.get(place, 0) + 1 if total < _FAINT * c1 else 0
            if streak == _STREAK:
                warnings.warn(
                    f"the total relevance at {place} has been below {_FAINT:g} of its range (c1 = {c1:.3g}, now "
                    f"{total:.3g}) in {_STREAK} training calls in a row, so the penalty there has no effect. Lower the "
                    "learning rate or the penalty's weight, clip the gradient, train longer without the penalty first, "
                    "or calibrate again if the settings have changed",
                    VanishedRelevanceWarning,
                    stacklevel=4,
                )


class ISNetRegularizer:
    """Penalty on a classifier's relevance in the background of its images.

    It adds one signal pass to a training step, whatever the number of classes (a step then costs about two plain
    steps), and nothing at test time. It is not a `torch.nn.Module`: it adds nothing to ``parameters()`` or
    ``state_dict()``, and rules are attached to the model only during a call.

    A low penalty is not evidence that the background does not matter: relevance with constant gates misses a background
    that acts through the gates. Test with changed backgrounds, and prefer SGD.

    Parameters
    ----------
    model : Module
        A classifier that returns logits ``(N, C)``, or a named tuple with the logits first. It may be wrapped in
        `DistributedDataParallel`. You choose its mode (train or eval), device and dtype.
    composite : LRPFlex, DifferentiableComposite or sequence of them, optional
        The relevance rules; each of several composites has its own heatmaps and ranges. If None,
        ``LRPFlex(reference="darkest")``, which gives the same explanations for normalized and unnormalized images.
        `composite` and `layers` are short for ``attribution=LRPAttribution(composite, layers)``.
    formulation : callable, optional
        ``formulation(logits) -> seeds (N, K, C)``, the explained quantities; `Label` also gets the call's labels. If
        None, `Stochastic`: one heatmap per image whatever the number of classes, with its own generator seeded from
        ``torch.initial_seed()``. In our study it resisted shortcuts better than `Selective`, which draws no random
        numbers.
    loss : callable, optional
        ``loss(relevance, foreground, c1, c2) -> (N,)``. If None, `HeatmapLoss`. A loss with the attribute `needs_range`
        False gets no range warning.
    layers : sequence of str or "auto", default="auto"
        LRP deep supervision: names of inner layers, as in ``model.named_modules()``, whose relevance is penalised too;
        ``"auto"`` takes one layer per halving of the resolution, ``()`` none. The images are always included. Masks are
        resized to each resolution without ever turning foreground into background.
    layer_decay : float, default=0.9
        Decay in (0, 1] of the weights when averaging the layers' losses, highest first; 1 is the plain mean.
    attribution : callable, optional
        ``attribution(model, images, formulation, create_graph=…) -> output, {layer: relevance}``; replaces LRP.
    ranges : mapping of Place or str to RelevanceRange, optional
        (C₁, C₂) of the total relevance, if already known. `calibrate` measures it.
    every : int or EveryNth, default=1
        Penalise only every n-th training call, with n times the weight; the others cost a plain step and return 0. This
        is cheaper, but weaker early on: use ``EveryNth(n, start=…)`` to penalise all calls in the first third of the
        training.
    validate : bool, default=False
        Whether to check values (NaN, masks, the box) at every call on accelerators too, which synchronises the device.
        On the CPU, and at the first call, they are always checked.

    Raises
    ------
    InvalidTypeError
        If `model` is not a module, a part has the wrong type, or `attribution` is given with `composite` or `layers`.
    InvalidValueError
        If a layer does not exist, `layer_decay` is not in (0, 1], or `every` is smaller than 1.
    UnsupportedModelError
        If the model is compiled, scripted or a `DataParallel`.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Dertkigil, S. S. J., Cavalli, A. "Improving deep neural network generalization and
       robustness to background bias via layer-wise relevance propagation optimization". Nat. Commun. 15, 291 (2024).
    .. [2] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch, torchvision
    >>> from zennit_isnet import ISNetRegularizer
    >>> model = torchvision.models.resnet18(num_classes=3)
    >>> regularizer = ISNetRegularizer(model)
    >>> images, masks = torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32)
    >>> calibration = regularizer.calibrate([images], progress=False)
    >>> logits, penalty = regularizer(images, masks)
    >>> loss = regularizer.balanced(torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])), penalty)
    >>> loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        composite: LRPComposite | Sequence[LRPComposite] | None = None,
        formulation: Callable[[Tensor], Tensor] | None = None,
        loss: Callable[..., Tensor] | None = None,
        layers: Sequence[str] | str = AUTO,
        layer_decay: float = 0.9,
        attribution: Attribution | None = None,
        ranges: Mapping[Any, RelevanceRange] | None = None,
        every: int | EveryNth = 1,
        validate: bool = False,
    ) -> None:
        check_model(model)
        check_callable(formulation=formulation, loss=loss, attribution=attribution)
        check_number("layer_decay", layer_decay, high=1.0)
        if attribution is not None and (composite is not None or layers != AUTO):
            raise InvalidTypeError("pass attribution, or composite and layers (short for LRPAttribution(…)), not both")
        if attribution is None:
            composite = LRPFlex(reference="darkest") if composite is None else composite
            attribution = LRPAttribution(composite, layers)
            find_layers(model, () if isinstance(layers, str) else layers)
        self.model = model
        self.attribution: Attribution = attribution
        self.layer_decay = layer_decay
        self.formulation: Callable[..., Tensor] = _stochastic() if formulation is None else formulation
        self.loss = HeatmapLoss() if loss is None else loss
        self.schedule = every.after(every.calls) if isinstance(every, EveryNth) else EveryNth(every)
        self.validate = validate
        self.ranges = Places() if ranges is None else ranges
        self.balance = LossBalance(limit=MAX_RATIO, every=MEASURE_EVERY)
        self._needs_range: bool = getattr(self.loss, "needs_range", True)
        self._called = self._warned = False
        self._vanishing, self._ratios = VanishingWatch(), RatioWatch()

    @property
    def ranges(self) -> Places[RelevanceRange]:
        """The range (C₁, C₂) of each place; for places without one it is (1, 25), the authors' default."""
        return self._ranges

    @ranges.setter
    def ranges(self, ranges: Mapping[Any, RelevanceRange]) -> None:
        self._ranges = calibration.checked_ranges(ranges)

    def __call__(
        self, images: Tensor, masks: Tensor, has_mask: Any = None, *, labels: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """Run the model once and return its output and the penalty.

        Parameters
        ----------
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``, preprocessed for the model.
        masks : Tensor
            Foreground masks, 1 on the object and 0 elsewhere, boolean or numbers: ``(N, 1, H, W)`` or ``(N, H, W)``,
            with ``T`` for videos. All-foreground masks are allowed, and so is another resolution than the images.
        has_mask : Tensor of bool, optional
            ``(N,)``; images without a mask only train the classifier, and their entries in `masks` are ignored.
        labels : Tensor, optional
            ``(N,)``, for a formulation that needs labels, such as `Label`.

        Returns
        -------
        logits
            The model's output, unchanged; without a graph if gradients are disabled.
        penalty : Tensor
            Scalar: mean over the images with a mask; 0 if there are none. If gradients are disabled, without a graph.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed; nothing is computed then.
        UncoveredOperationError
            If the model runs operations that no rule covers; nothing is changed then.

        Warns
        -----
        RelevanceRangeWarning
            At the first training call, if the range was not calibrated and the relevance is far outside the default.
        VanishedRelevanceWarning
            If a layer's relevance stays below a hundredth of its range for ten training calls: the penalty is then a
            constant. On accelerators it is only checked at every hundredth call, unless `validate`.
        """
        images, masks, flags = self._checked(images, masks, has_mask)
        training = torch.is_grad_enabled()
        if training and not self.schedule.weight:
            output = self.model(images)
            self.schedule.advance()
            return output, images.new_zeros(())
        with buffers_restored(self.model, on_error_only=True):
            explained = self._formulation_of(labels)
            if has_mask is not None:
                explained = partial(_seeds_where, flags, explained)
            output, found = self.attribution(self.model, images, explained, create_graph=training)
            relevance = found if isinstance(found, Places) else Places(found)
            if training and self._needs_range:
                self._watch(relevance, flags)
            if has_mask is not None:
                # images without a mask must not make the loss or its gradient NaN
                shown = {place: _where_images(flags, heatmaps, 1.0) for place, heatmaps in relevance.items()}
                relevance = Places(shown)
            losses = {place: self._loss_at(place, heatmaps, masks, flags) for place, heatmaps in relevance.items()}
            penalty = self._combined(losses)
        self._called = True
        if not training:
            return detached(output), penalty
        return output, self.schedule.advance() * penalty

    def balanced(self, classification: Tensor, penalty: Tensor, weight: float = 0.7) -> Tensor:
        """Return the weighted sum ``(1 − P)·classification + P·λ·penalty`` with balanced gradients.

        ``λ ≤ 1`` keeps the penalty's gradient norm within 5 times the classification loss's (its mean over the training
        so far, because a classifier that has learned a shortcut has almost no gradient left). The norms are measured
        over all trainable parameters at the first and every 50th step, which costs 2 % of the training time;
        ``regularizer.balance.norms`` and ``.factor`` are the latest values, for progress bars and logs.

        Works with autocast, with `GradScaler` (scale the sum), with gradient accumulation, and with
        `DistributedDataParallel`, where all processes must call it.

        Parameters
        ----------
        classification : Tensor
            Scalar, such as the cross-entropy of the logits that the call returned.
        penalty : Tensor
            The penalty from the same call.
        weight : float, default=0.7
            ``P`` in [0, 1].

        Returns
        -------
        Tensor
            Scalar, to call ``backward()`` on.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If a loss is not a scalar tensor, or `weight` does not lie in [0, 1].

        Warns
        -----
        GradientRatioWarning
            If the gradient norm of a penalty that is not yet small was below a tenth of the classification loss's in
            three measurements.
        """
        check_number("weight", weight, high=1.0, include_low=True)
        factor = self.balance.factor
        if torch.is_grad_enabled() and penalty.requires_grad:
            factor = self.balance(self.model, classification, penalty)
        return (1 - weight) * classification + weight * factor * penalty

    def gradient_norms(self, classification: Tensor, penalty: Tensor) -> GradientNorms:
        """Measure the gradient norms of both losses, for training loops with their own weighting.

        It runs two backward passes that do not accumulate gradients. Call it occasionally, before ``backward()``.

        Parameters
        ----------
        classification, penalty : Tensor
            Scalars of the same step, as for `balanced`.

        Returns
        -------
        GradientNorms
            ``classification``, ``penalty`` and their ``ratio``, without weights.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If a loss is not a scalar tensor.

        Warns
        -----
        GradientRatioWarning
            If one norm was more than 10 times the other in three consecutive measurements, unless the other loss is
            already small.
        """
        norms = gradient_norms(self.model, classification, penalty)
        losses = classification.item(), penalty.item()
        self._ratios.see(norms.ratio, losses, f"{PATIENCE} measurements", stacklevel=2)
        return norms

    def heatmap(self, images: Tensor, target: int | Tensor | Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Explain images; the model runs in eval mode, and its modes are restored.

        Parameters
        ----------
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
        target : int, Tensor or formulation, optional
            Class to explain, for all images or for each. If None, the regularizer's formulation, which for `Stochastic`
            is a random class.

        Returns
        -------
        Tensor
            Relevance ``(N, K, C, H, W)`` without a graph; positive values support the quantity. It is at the images, or
            at a layer if the attribution has none there.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed.
        UncoveredOperationError
            If the model runs operations that no rule covers.
        """
        images = self._checked_images(images, values=True)
        formulation = self._formulation_of() if target is None else Target(target) if not callable(target) else target
        _, heatmaps = self._explained(images, formulation)
        return heatmaps.get(INPUT, next(iter(heatmaps.values())))

    def calibrate(self, loader: Iterable[Any], *, progress: bool = True) -> Places[RelevanceRange]:
        """Measure and set the range (C₁, C₂) of the total relevance of each layer.

        The model must already be trained without the penalty. It runs in eval mode without a graph, and its modes are
        restored. In `DistributedDataParallel` every process calls this with its share, and all get the range over all
        images.

        Parameters
        ----------
        loader : iterable
            Batches of images, or tuples that begin with images; ``(images, masks, labels, …)`` if the formulation needs
            labels. They are moved to the model's device.
        progress : bool, default=True
            Whether to show a progress bar.

        Returns
        -------
        Places of RelevanceRange
            For each place (``ranges["input"]``): ``c1``, ``c2``, ``mean``, ``std`` and ``count``.

        Raises
        ------
        CalibrationError
            If there are fewer than two images, all relevance is zero, or the measured range is empty.
        InvalidTypeError, InvalidValueError
            If a batch does not begin with images. After any error the previous range is kept.

        Warns
        -----
        RelevanceRangeWarning
            If the relevance varies too much between images for any range, or the classifier looks untrained.
        """
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        maturity = Maturity()

        def totals(batch: Any) -> dict[Place, Tensor]:
            entries = batch if isinstance(batch, (list, tuple)) and batch else (batch,)
            images = self._checked_images(entries[0], values=True).to(device)
            needs_labels = getattr(self.formulation, "needs_labels", False)
            labels = entries[2] if needs_labels and len(entries) > 2 else None
            output, relevance = self._explained(images, self._formulation_of(labels))
            maturity.see(output)
            return {place: total_relevance(heatmaps) for place, heatmaps in relevance.items()}

        batches = tqdm(loader, desc="calibrating", unit="batch", disable=not progress, leave=False)
        self.ranges = calibration.measured_ranges(map(totals, batches), self.model)
        maturity.warn(stacklevel=3)
        return Places(self.ranges)

    def state_dict(self) -> dict[str, Any]:
        """Return ranges, counts, the loss balance and the formulation's state as plain numbers and tensors."""
        ranges = [{**place._asdict(), **dataclasses.asdict(found)} for place, found in self.ranges.items()]
        formulation: Any = getattr(self.formulation, "state_dict", dict)
        calls, balance = self.schedule.calls, self.balance.state_dict()
        return {"ranges": ranges, "formulation": formulation(), "calls": calls, "balance": balance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises
        ------
        InvalidValueError
            If keys are missing or unexpected, or a range is not made of numbers.
        CalibrationError
            If a range is empty.
        """
        if not isinstance(state, Mapping) or set(state) - {"calls", "balance"} != {"ranges", "formulation"}:
            came = list(state) if isinstance(state, Mapping) else type(state).__name__
            raise InvalidValueError(f"state must be a mapping with the keys 'ranges' and 'formulation'; got {came}")
        ranges = calibration.ranges_from_state(state["ranges"])
        schedule = self.schedule.after(state.get("calls", 0))
        if hasattr(self.formulation, "load_state_dict"):
            self.formulation.load_state_dict(state["formulation"])
        if "balance" in state:
            self.balance.load_state_dict(state["balance"])
        self.ranges, self.schedule = ranges, schedule

    def __repr__(self) -> str:
        parts = ("attribution", "formulation", "loss", "layer_decay", "schedule", "ranges")
        shown = ", ".join(f"{part}={getattr(self, part)!r}" for part in parts)
        return f"{type(self).__name__}({type(unwrapped(self.model)).__name__}, {shown})"

    def _formulation_of(self, labels: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return the formulation, with labels if it needs them."""
        if not getattr(self.formulation, "needs_labels", False):
            return self.formulation
        return partial(self.formulation, labels=labels)

    def _loss_at(self, place: Place, heatmaps: Tensor, masks: Tensor, flags: Tensor) -> Tensor:
        """Return the mean loss over the images with a mask."""
        measured = self.ranges.get(place, DEFAULT_RANGE)
        losses = self.loss(heatmaps, masks, measured.c1, measured.c2)
        if not isinstance(losses, Tensor) or losses.shape != flags.shape:
            came = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise InvalidValueError(f"loss must return one value per image, shape ({len(flags)},); got {came}")
        return torch.where(flags, losses, 0.0).sum() / flags.sum().clamp(min=1)

    def _combined(self, losses: Mapping[Place, Tensor]) -> Tensor:
        """Return the mean over composites of the rank-weighted mean over layers."""
        layers = [
            torch.stack([loss for place, loss in losses.items() if place.composite == composite])
            for composite in dict.fromkeys(place.composite for place in losses)
        ]
        return torch.stack([gwrp(of_layers, self.layer_decay) for of_layers in layers]).mean()

    def _explained(self, images: Tensor, formulation: Callable[[Tensor], Tensor]) -> tuple[Any, Places[Tensor]]:
        """Return output and heatmaps without a graph, in eval mode."""
        # DistributedDataParallel would wait for all processes, and perhaps only this one explains images
        with eval_mode(model := unwrapped(self.model)):
            output, relevance = self.attribution(model, images.detach(), formulation, create_graph=False)
        return detached(output), Places({place: heatmaps.detach() for place, heatmaps in relevance.items()})

    def _checked(self, images: Tensor, masks: Tensor, has_mask: Any) -> tuple[Tensor, Tensor, Tensor]:
        values = self._reads_values(images)
        images = self._checked_images(images, values=values)
        masks = check_masks(masks, images)
        flags = check_has_mask(has_mask, len(images), images.device)
        # images without a mask get an all-foreground mask, which is always legal and has a finite loss
        masks = _where_images(flags, masks, torch.ones_like(masks))
        if values:
            validate_foreground(masks)
        return images, masks, flags

    def _checked_images(self, images: Tensor, *, values: bool) -> Tensor:
        images = check_images(images, values=values)
        # on the CPU the attribution checks the box itself
        if values and images.device.type != "cpu" and isinstance(self.attribution, LRPAttribution):
            self.attribution.check_box(images)
        return images

    def _watch(self, relevance: Mapping[Place, Tensor], flags: Tensor) -> None:
        """Check the total relevance of images with a mask: outside the default range, zero, or vanishing."""
        if self._warned and not self._vanishing.due(self._reads_values(next(iter(relevance.values())))):
            return
        if not (count := int(flags.sum())):
            return
        # others have zero relevance: they are not explained
        totals = {place: total_relevance(r.detach()).sum().item() / count for place, r in relevance.items()}
        for place, total in totals.items():
            if not self._called and total == 0:
                raise InvalidValueError(calibration.no_relevance_message(place, unwrapped(self.model)))
            if not (self._warned or self.ranges):
                calibration.warn_outside_default_range(place, total, stacklevel=4)
        self._warned = True
        if self.ranges:
            self._vanishing.see(totals, self.ranges)

    def _reads_values(self, images: Any) -> bool:
        """Whether to check values in this call; reading them synchronises an accelerator."""
        return self.validate or not self._called or not isinstance(images, Tensor) or images.device.type == "cpu"


def _where_images(flags: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """Return the values ``(N, …)`` of flagged images, with `other` for the rest."""
    return torch.where(flags.to(values.device).view(-1, *(1,) * (values.ndim - 1)), values, other)


def _seeds_where(flags: Tensor, formulation: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return seeds with zeros for images without a mask, whose signals could overflow."""
    return _where_images(flags, seeds_of(formulation, len(flags))(logits)[1], 0.0)


def _stochastic() -> Stochastic:
    """A separate generator: the user's draws, for example in dropout, stay the same as without the penalty."""
    joined = distributed.is_available() and distributed.is_initialized()
    rank = distributed.get_rank() if joined else 0
    # a different seed in each process, as their images differ
    return Stochastic(torch.Generator().manual_seed((torch.initial_seed() + rank) % 2**63))
