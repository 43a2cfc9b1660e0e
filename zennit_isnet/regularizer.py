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
    """Makes the first calls due, and every n-th one after them.

    Lazy regularization: with n times the weight at each n-th step, the loss needs no other weighting than at every
    step. That holds while the penalty only has to keep what it reached. A classifier decides early what it looks at,
    and then three plain steps before each penalised one let the shortcut win; so the first part of a training, a third
    in our runs, should be penalised as a whole.

    Parameters
    ----------
    every : int
        The n, at least 1.
    start : int, default 0
        The number of first calls that are all due, with their own weight.
    calls : int, default 0
        Calls that were made before, in a training that is resumed.

    Raises
    ------
    InvalidTypeError
        If a number is no integer.
    InvalidValueError
        If `every` is smaller than 1, or another number smaller than 0.

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
        """Factor of the penalty at the call that is about to be made; 0 where it is not due."""
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
"""How much larger than the classification loss's the penalty's gradient may be."""

MEASURE_EVERY = 50
"""Training steps from one measurement of the gradients to the next."""


_FAINT = 1e-2
"""A total relevance below this part of ``c1`` leaves the foreground term of the loss constant."""

_STREAK = 10
"""Calls in a row with so little relevance that draw a warning."""

_LOOK = 100
"""Calls between two looks at an accelerator, which has to be waited for."""


class VanishingWatch:
    """Warns where the relevance of a layer has all but vanished for some training calls in a row."""

    def __init__(self) -> None:
        self._calls = 0
        self._streaks: dict[Place, int] = {}

    def due(self, free: bool) -> bool:
        """Count a call and say whether to look at it: at each where that is free, at a few in a row elsewhere."""
        self._calls += 1
        return free or self._calls % _LOOK >= _LOOK - _STREAK

    def see(self, totals: Mapping[Place, float], ranges: Mapping[Place, RelevanceRange]) -> None:
        """Count the layers whose mean total |relevance| is far below their range, and warn with `_STREAK` in a row."""
        for place, total in totals.items():
            c1 = ranges.get(place, DEFAULT_RANGE).c1
            streak = self._streaks[place] = self._streaks.get(place, 0) + 1 if total < _FAINT * c1 else 0
            if streak == _STREAK:
                warnings.warn(
                    f"the total relevance at {place} has been below {_FAINT:g} of its range (c1 = {c1:.3g}, now "
                    f"{total:.3g}) in {_STREAK} training calls in a row: the penalty there teaches nothing. Lower the "
                    "learning rate or the penalty's weight, clip the gradient, train plainly for longer first, or "
                    "calibrate again if the settings have changed",
                    VanishedRelevanceWarning,
                    stacklevel=4,
                )


class ISNetRegularizer:
    """Penalty on the relevance that a classifier finds in the background of its images.

    Adds one signal pass to a training step, whatever the number of classes (two of a plain step's costs in all), and
    nothing at test time. It is not a `torch.nn.Module`: it adds nothing to ``parameters()`` or ``state_dict()``, and
    the model carries rules only during a call.

    A low penalty is no evidence that the background does not matter: relevance with constant gates does not see a
    background that acts through the gates. Test with changed backgrounds, and prefer SGD.

    Parameters
    ----------
    model : Module
        A classifier that returns logits ``(N, C)``, or a named tuple with them first. It may be wrapped in
        `DistributedDataParallel`. Mode (train or eval), device and dtype are the user's.
    composite : LRPFlex, DifferentiableComposite or sequence of them, optional
        The relevance rules; of several, each has heatmaps and ranges of its own. Default
        ``LRPFlex(reference="darkest")``, which explains images alike whether they are normalized or not. With `layers`,
        short for ``attribution=LRPAttribution(composite, layers)``.
    formulation : callable, optional
        ``formulation(logits) -> seeds (N, K, C)``, the explained quantities; `Label` gets the call's labels too.
        Default `Stochastic`, one heatmap an
        image whatever the number of classes, with a generator of its own that starts from ``torch.initial_seed()``. It
        resisted more in our study than `Selective`, which draws no random numbers.
    loss : callable, optional
        ``loss(relevance, foreground, c1, c2) -> (N,)``. Default `HeatmapLoss`. With `needs_range` False, no warning.
    layers : sequence of str or "auto", default "auto"
        LRP deep supervision: names of inner layers, as in ``model.named_modules()``, whose relevance is penalised too;
        ``"auto"`` takes one layer for each halving of the resolution, ``()`` none. The images are always among them.
        Masks are brought to each resolution so that no foreground is ever called background.
    layer_decay : float, default 0.9
        Decay in (0, 1] of the ranked mean of the layers' losses, the highest first; 1 is the plain mean.
    attribution : callable, optional
        ``attribution(model, images, formulation, create_graph=…) -> output, {layer: relevance}``; replaces LRP.
    ranges : mapping of Place or str to RelevanceRange, optional
        (C₁, C₂) of the total relevance, where it is known already. `calibrate` measures it.
    every : int or EveryNth, default 1
        Penalise every n-th training call only, with n times the weight; the others cost a plain step and return 0.
        Cheaper, and weaker early on: let ``EveryNth(n, start=…)`` penalise all calls of the training's first third.
    validate : bool, default False
        Whether values (NaN, masks, the box) are checked at every call on accelerators too, where that waits for the
        device. On the CPU, and at the first call, they always are.

    Raises
    ------
    InvalidTypeError
        If `model` is no module, a part has the wrong type, or `attribution` is given with `composite` or `layers`.
    InvalidValueError
        If a layer does not exist, `layer_decay` is not in (0, 1], or `every` is smaller than 1.
    UnsupportedModelError
        If the model is compiled, scripted or a `DataParallel`.

    References
    ----------
    Bassi, Dertkigil, Cavalli, Nat. Commun. 15 (2024) 291; Bassi, Decherchi, Cavalli, IEEE Access 12 (2024) 155151.

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
            raise InvalidTypeError(
                "give attribution, or composite and layers; not both, they are short for LRPAttribution(…)"
            )
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
        """The range (C₁, C₂) of each place; of places without one it is (1, 25), the authors' default."""
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
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``, as the model takes them.
        masks : Tensor
            Foreground masks, 1 on the object and 0 elsewhere, boolean or numbers: ``(N, 1, H, W)`` or ``(N, H, W)``,
            with ``T`` for videos. All-foreground is allowed, and so is another resolution than that of the images.
        has_mask : Tensor of bool, optional
            ``(N,)``; images without a mask train the classifier only, and what stands in `masks` for them is ignored.
        labels : Tensor, optional
            ``(N,)``, for a formulation that explains them, as `Label` does.

        Returns
        -------
        logits
            What the model returned, unchanged; without a graph where gradients are not enabled.
        penalty : Tensor
            Scalar: mean over the images that have a mask; 0 if none has. Without gradients enabled, a plain number.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If an argument is not allowed; nothing has been computed then.
        UncoveredOperationError
            If the model runs operations that no rule covers; nothing has changed then.

        Warns
        -----
        RelevanceRangeWarning
            At the first training call, if the range was not calibrated and the relevance lies far outside of the
            default.
        VanishedRelevanceWarning
            If a layer's relevance stays below a hundredth of its range for ten training calls: the penalty is then a
            constant. On accelerators only looked for at each hundredth call unless `validate`.
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
                # whatever a loss makes of an image without a mask, not even its gradient may be NaN
                shown = {place: _where_images(flags, heatmaps, 1.0) for place, heatmaps in relevance.items()}
                relevance = Places(shown)
            losses = {place: self._loss_at(place, heatmaps, masks, flags) for place, heatmaps in relevance.items()}
            penalty = self._combined(losses)
        self._called = True
        if not training:
            return detached(output), penalty
        return output, self.schedule.advance() * penalty

    def balanced(self, classification: Tensor, penalty: Tensor, weight: float = 0.7) -> Tensor:
        """Sum of the two losses, ``(1 − P)·classification + P·λ·penalty``, with gradients in proportion.

        ``λ ≤ 1`` keeps the norm of the penalty's gradient within 5 times that of the classification loss (its mean over
        the training so far, because a classifier that has found a shortcut has hardly any gradient left). The norms
        are taken over all trainable parameters at the first step and at each 50th, which costs 2 % of a training;
        ``regularizer.balance.norms`` and ``.factor`` are the latest, for progress bars and logs.

        Works with autocast and `GradScaler` (scale the sum), with gradient accumulation, and with
        `DistributedDataParallel`, where all processes must call it.

        Parameters
        ----------
        classification : Tensor
            Scalar, such as the cross-entropy of the logits that the call returned.
        penalty : Tensor
            What the same call returned.
        weight : float, default 0.7
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
            If the gradient of a penalty that is not small yet was less than a tenth of the classification loss's in
            three measurements.
        """
        check_number("weight", weight, high=1.0, include_low=True)
        factor = self.balance.factor
        if torch.is_grad_enabled() and penalty.requires_grad:
            factor = self.balance(self.model, classification, penalty)
        return (1 - weight) * classification + weight * factor * penalty

    def gradient_norms(self, classification: Tensor, penalty: Tensor) -> GradientNorms:
        """Measure both losses' gradients, for loops that weigh them by themselves.

        Takes two backward passes that accumulate nothing. Call it every now and then, before ``backward()``.

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
            If one norm was more than 10 times the other in three measurements in a row, unless the other loss is small
            because it has done its work.
        """
        norms = gradient_norms(self.model, classification, penalty)
        losses = classification.item(), penalty.item()
        self._ratios.see(norms.ratio, losses, f"{PATIENCE} measurements", stacklevel=2)
        return norms

    def heatmap(self, images: Tensor, target: int | Tensor | Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Explain images; the model runs in eval mode and gets its modes back.

        Parameters
        ----------
        images : Tensor
            ``(N, C, H, W)`` or ``(N, C, T, H, W)``.
        target : int, Tensor or formulation, optional
            Class, or class of each image, to explain. Default None explains what the regularizer's formulation does,
            which for `Stochastic` is a drawn class.

        Returns
        -------
        Tensor
            Relevance ``(N, K, C, H, W)``, no graph; positive speaks for the quantity. At a layer if not at the images.

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
        """Measure the range (C₁, C₂) of the total relevance of each layer, and use it from now on.

        The model must be plainly trained already. It runs in eval mode, without a graph, and gets its modes back. In
        `DistributedDataParallel` every process calls this with its share, and all get the range of all images.

        Parameters
        ----------
        loader : iterable
            Batches of images, or tuples that begin with images. They are moved to the model's device.
        progress : bool, default True
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
            If a batch does not begin with images. After any error the former range stays in use.

        Warns
        -----
        RelevanceRangeWarning
            If the relevance scatters so much between images that no range fits it, or the classifier looks untrained.
        """
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        maturity = Maturity()

        def totals(batch: Any) -> dict[Place, Tensor]:
            images = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
            images = self._checked_images(images, values=True).to(device)
            output, relevance = self._explained(images, self._formulation_of())
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
        """Take over what `state_dict` returned.

        Raises
        ------
        InvalidValueError
            If keys are missing or unexpected, or a range is not made of numbers.
        CalibrationError
            If a range is empty.
        """
        if not isinstance(state, Mapping) or set(state) - {"calls", "balance"} != {"ranges", "formulation"}:
            came = list(state) if isinstance(state, Mapping) else type(state).__name__
            raise InvalidValueError(f"state must be a mapping with the keys 'ranges' and 'formulation', got {came}")
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
        """Return the formulation, with labels where it explains them."""
        if not getattr(self.formulation, "needs_labels", False):
            return self.formulation
        return partial(self.formulation, labels=labels)

    def _loss_at(self, place: Place, heatmaps: Tensor, masks: Tensor, flags: Tensor) -> Tensor:
        """Mean loss over the images that have a mask."""
        measured = self.ranges.get(place, DEFAULT_RANGE)
        losses = self.loss(heatmaps, masks, measured.c1, measured.c2)
        if not isinstance(losses, Tensor) or losses.shape != flags.shape:
            came = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise InvalidValueError(f"loss must return one value an image, shape ({len(flags)},), got {came}")
        return torch.where(flags, losses, 0.0).sum() / flags.sum().clamp(min=1)

    def _combined(self, losses: Mapping[Place, Tensor]) -> Tensor:
        """Mean over the composites of the ranked mean of the layers' losses."""
        layers = [
            torch.stack([loss for place, loss in losses.items() if place.composite == composite])
            for composite in dict.fromkeys(place.composite for place in losses)
        ]
        return torch.stack([gwrp(of_layers, self.layer_decay) for of_layers in layers]).mean()

    def _explained(self, images: Tensor, formulation: Callable[[Tensor], Tensor]) -> tuple[Any, Places[Tensor]]:
        """Return output and heatmaps without a graph, in eval mode."""
        # DistributedDataParallel would wait for all processes, of which perhaps only this one explains
        with eval_mode(model := unwrapped(self.model)):
            output, relevance = self.attribution(model, images.detach(), formulation, create_graph=False)
        return detached(output), Places({place: heatmaps.detach() for place, heatmaps in relevance.items()})

    def _checked(self, images: Tensor, masks: Tensor, has_mask: Any) -> tuple[Tensor, Tensor, Tensor]:
        values = self._reads_values(images)
        images = self._checked_images(images, values=values)
        masks = check_masks(masks, images)
        flags = check_has_mask(has_mask, len(images), images.device)
        # an all-foreground mask is always legal, and its loss finite, where no mask is given
        masks = _where_images(flags, masks, torch.ones_like(masks))
        if values:
            validate_foreground(masks)
        return images, masks, flags

    def _checked_images(self, images: Tensor, *, values: bool) -> Tensor:
        images = check_images(images, values=values)
        # on the CPU the attribution checks the box by itself
        if values and images.device.type != "cpu" and isinstance(self.attribution, LRPAttribution):
            self.attribution.check_box(images)
        return images

    def _watch(self, relevance: Mapping[Place, Tensor], flags: Tensor) -> None:
        """Look at the total relevance of images with a mask: outside of the default range, zero, or vanishing."""
        if self._warned and not self._vanishing.due(self._reads_values(next(iter(relevance.values())))):
            return
        if not (count := int(flags.sum())):
            return
        # the others' is zero: they are not explained
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
        """Whether values are looked at in this call; reading them makes an accelerator wait."""
        return self.validate or not self._called or not isinstance(images, Tensor) or images.device.type == "cpu"


def _where_images(flags: Tensor, values: Tensor, other: Tensor | float) -> Tensor:
    """Return the values ``(N, …)`` of flagged images, and `other` in the place of those of the rest."""
    return torch.where(flags.to(values.device).view(-1, *(1,) * (values.ndim - 1)), values, other)


def _seeds_where(flags: Tensor, formulation: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return seeds that are zero for the images without a mask, whose signals could leave the range of the dtype."""
    return _where_images(flags, seeds_of(formulation, len(flags))(logits)[1], 0.0)


def _stochastic() -> Stochastic:
    """Draws of its own: those of the user, of dropout for example, stay what they are without a penalty."""
    joined = distributed.is_available() and distributed.is_initialized()
    rank = distributed.get_rank() if joined else 0
    # another seed in each process, as their images differ
    return Stochastic(torch.Generator().manual_seed((torch.initial_seed() + rank) % 2**63))
