"""`audit`: whether a classifier relies on the background."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zennit_isnet.audit.logits import check_names, for_both_classes, seeds_for
from zennit_isnet.audit.reading import Batch, MaskedImages, Normalization, Survey, survey, usable
from zennit_isnet.audit.report import AuditReport, Examples, ImageResult, Version
from zennit_isnet.checks import as_integers, check_count, check_logits, check_number
from zennit_isnet.functional import background_share, resize_foreground
from zennit_isnet.lrp.propagation import Attribution
from zennit_isnet.model import eval_mode, main_logits, unwrapped
from zennit_isnet.regularizer import ISNetRegularizer
from zennit_isnet.swap.backgrounds import fill_holes, swap_backgrounds


def audit(
    model: nn.Module,
    data: Dataset[Any] | DataLoader[Any],
    *,
    normalization: Normalization | None = None,
    attribution: Attribution | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 32,
    examples: int = 8,
    tolerance: float = 0.05,
    seed: int = 0,
    progress: bool = True,
    names: tuple[str, str] | None = None,
) -> AuditReport:
    """Report whether a classifier relies on the background, before any training.

    The data are read twice: once to check the masks, compute the mean colour and choose background donors; once to
    explain each image's prediction and to repeat it on other backgrounds. The model runs in eval mode on its own device
    and is left unchanged. Each image costs seven forward passes and one backward pass.

    Parameters
    ----------
    model : Module
        A classifier with one label per image. It returns logits ``(N, C)``, the highest of which is the prediction, or
        ``(N, 1)`` for two classes, where a logit above 0 predicts class 1.
    data : Dataset or DataLoader
        Items ``(image, mask, label)`` or ``(image, mask, label, has_mask)``, such as `MaskedImageFolder`. Images must
        be preprocessed for the model, of one size, without random augmentation; use images that it was not trained on.
        A loader's data set, batch size, workers and collation are used, but not its order. Images without a mask, or
        without background, are left out and counted.
    normalization : (mean, std), optional
        The values the images were normalised with, one number per channel; None for images in [0, 1]. They define
        black, and are needed to show the images.
    attribution : Attribution, optional
        Makes the heatmaps. If None, `LRPAttribution`, which is LRP-Flex.
    classes : sequence of str, optional
        Names of the classes. If None, those of the data set, or numbers.
    batch_size : int, default=32
        For a data set; a loader has its own.
    examples : int, default=8
        Number of images with the highest background share, and of images drawn at random, shown in the report.
    tolerance : float, default=0.05
        The largest change of accuracy on swapped backgrounds that counts as no change, in [0, 1]. The default allows
        for the seams of a swap, which cost one or two points in models that ignore backgrounds; a bias costs tens of
        points. Showing that a model stays below it takes about 40 images, or some hundreds if the model makes
        occasional errors.
    seed : int, default=0
        Fixes the donors of backgrounds and the images drawn at random.
    progress : bool, default=True
        Whether to show progress bars.
    names : (str, str), optional
        Names of the model and the data in the report. If None, their types.

    Returns
    -------
    AuditReport
        With `verdict`, and with `to_html`, `to_markdown` and `to_json`.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If an argument, an image, a mask or a label is not allowed; the message names the image files.
    UncoveredOperationError
        If the model runs operations that no relevance rule covers.

    Notes
    -----
    The verdict does not depend on the relevance. It depends on the accuracy on the background of an image of another
    class, compared image by image; see `zennit_isnet.audit.verdict.judge`. Use images whose backgrounds resemble those
    of the training data: if backgrounds are not correlated with the classes, a swap costs no accuracy, whatever the
    model relies on.

    Audit a multi-label model one label at a time, as a model of two classes: wrap it to return the logit of that label
    alone, ``(N, 1)``, and use labels 0 and 1.

    Examples
    --------
    >>> from torchvision.models import resnet18
    >>> from torch.utils.data import Subset
    >>> from zennit_isnet.audit import audit
    >>> from zennit_isnet.data import BackgroundBias
    >>> data = Subset(BackgroundBias(split="validation"), range(24))
    >>> report = audit(resnet18(num_classes=10), data, progress=False)
    >>> report.verdict.outcome  # an untrained model has no accuracy to lose
    'undecided'
    """
    check_number("tolerance", tolerance, high=1.0, include_low=True)
    check_count("examples", examples)
    parts: dict[str, Any] = {"layers": ()} if attribution is None else {"attribution": attribution}
    regularizer = ISNetRegularizer(model, **parts)
    source = MaskedImages(data, batch_size)
    seen = survey(source, normalization, seed=seed, progress=progress)
    known: Sequence[str] | None = source.classes if classes is None else [str(name) for name in classes]

    chance = random.Random(seed)
    chosen = sorted(chance.sample(range(seen.count), min(examples, seen.count)))
    worst: list[int] = []
    rows: list[ImageResult] = []
    pictures: dict[int, tuple[Tensor, ...]] = {}
    with eval_mode(model):
        for batch in map(usable, source.batches("auditing", progress=progress)):
            if not len(batch):
                continue
            altered = versions(batch, seen, chance)
            logits = {version: _logits(model, images) for version, (images, _) in altered.items()}
            count = logits["kept"].shape[1]
            known = [str(label) for label in range(count)] if known is None else known
            check_names(known, count)
            as_integers("labels", batch.labels, count=count)
            predicted = partial(seeds_for, logits["kept"].argmax(1))
            relevance = regularizer.heatmap(batch.images.to(_device(model)), predicted)[:, 0].float().cpu()
            pictures.update(enumerate(zip(batch.images, batch.masks, relevance.sum(1), strict=True), start=len(rows)))
            rows += _rows(batch, [source.name(i) for i in batch.indices.tolist()], altered, logits, relevance)
            # images with an undefined share are never among the worst
            shares = {row: share for row in pictures if (share := rows[row].share) is not None}
            worst = heapq.nlargest(examples, shares, key=shares.__getitem__)
            pictures = {row: picture for row, picture in pictures.items() if row in {*chosen, *worst}}
    return AuditReport(
        *(names or (type(unwrapped(model)).__name__, source.title)),
        classes=tuple(known or ()),
        images=tuple(rows),
        left_out=seen.left_out,
        tolerance=tolerance,
        worst=_examples(worst, pictures, seen),
        random=_examples(chosen, pictures, seen),
    )


class Altered(NamedTuple):
    """One version of a batch.

    Attributes
    ----------
    images : Tensor
        ``(N, C, H, W)``.
    counts : Tensor
        ``(N,)``, bool: False if the version cannot be made, because no donor fits or no background is left.
    """

    images: Tensor
    counts: Tensor


def versions(batch: Batch, survey: Survey, chance: random.Random) -> dict[Version, Altered]:
    """Make all versions of the images in a batch.

    Parameters
    ----------
    batch : Batch
        Images with some foreground and some background.
    survey : Survey
        Colours and donors.
    chance : random.Random
        Draws the donors.

    Returns
    -------
    dict of str to Altered
        ``"kept"``: the images. ``"swapped"``: on the background of an image of another class. ``"same_class"``: on
        that of another image of the same class. ``"mean"`` and ``"black"``: on one colour. ``"removed"``: without
        their object.
    """
    inside, everywhere = batch.masks == 1, torch.ones(len(batch), dtype=torch.bool)
    return {
        "kept": Altered(batch.images, everywhere),
        "swapped": _on_donors(batch, survey.donors, same_class=False, chance=chance),
        "same_class": _on_donors(batch, survey.donors, same_class=True, chance=chance),
        "mean": Altered(torch.where(inside, batch.images, survey.colour.to(batch.images)), everywhere),
        "black": Altered(torch.where(inside, batch.images, survey.low.to(batch.images)), everywhere),
        "removed": without_object(batch.images, batch.masks),
    }


def without_object(images: Tensor, masks: Tensor) -> Altered:
    """Fill the bounding box of each object from the pixels around it.

    The box is used because a filled mask would still show the object's outline. If the box covers the whole image, the
    version does not count.
    """
    rows, columns = masks.amax(3, keepdim=True) > 0, masks.amax(2, keepdim=True) > 0
    box = _between(rows, 2) & _between(columns, 3)
    return Altered(fill_holes(images, ~box), ~box.flatten(1).all(1))


def _between(marked: Tensor, dim: int) -> Tensor:
    """Mark everything between the first and the last mark along an axis."""
    marks = marked.int()
    return (marks.cummax(dim).values * marks.flip(dim).cummax(dim).values.flip(dim)).bool()


def _on_donors(batch: Batch, donors: Batch, *, same_class: bool, chance: random.Random) -> Altered:
    fits = ((donors.labels == batch.labels[:, None]) == same_class) & (donors.indices != batch.indices[:, None])
    drawn = torch.tensor([chance.choice(row.nonzero()[:, 0].tolist()) if row.any() else 0 for row in fits])
    images = torch.cat([batch.images, donors.images[drawn]])
    masks = torch.cat([batch.masks, donors.masks[drawn]])
    # images come first and take the background of the donor one batch later; donors are unchanged
    partner = torch.arange(len(batch), len(images)).repeat(2)
    return Altered(swap_backgrounds(images, masks, partner)[: len(batch)], fits.any(1))


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(N, C)`` on the CPU, for two classes at least."""
    # DistributedDataParallel would wait for all processes, and perhaps only this one runs the audit
    output = unwrapped(model)(images.to(_device(model)))
    logits = main_logits(output, len(images)).float().cpu()
    check_logits("the model's logits", logits, values=True)
    return for_both_classes(logits)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


def _rows(
    batch: Batch, names: list[str], altered: dict[Version, Altered], logits: dict[Version, Tensor], relevance: Tensor
) -> list[ImageResult]:
    foreground = resize_foreground(batch.masks, relevance.shape[-2:])
    # without relevance there is no share; 0 would suggest that the model ignores the background
    shares = background_share(relevance, foreground, undefined="skip").tolist()
    areas = (batch.masks != 1).float().flatten(1).mean(1).tolist()
    predicted = {version: values.argmax(1).tolist() for version, values in logits.items()}
    made = {version: counts.tolist() for version, (_, counts) in altered.items()}
    rows = []
    for i, (name, label) in enumerate(zip(names, batch.labels.tolist(), strict=True)):
        share = None if math.isnan(shares[i]) else shares[i]
        predictions = {version: classes[i] if made[version][i] else None for version, classes in predicted.items()}
        rows.append(ImageResult(name, label, areas[i], share, predictions))
    return rows


def _examples(chosen: list[int], pictures: dict[int, tuple[Tensor, ...]], survey: Survey) -> Examples:
    if not chosen:
        return Examples((), torch.empty(0, 3, 1, 1), torch.empty(0, 1, 1, 1), torch.empty(0, 1, 1))
    images, masks, relevance = map(torch.stack, zip(*(pictures[row] for row in chosen), strict=True))
    return Examples(tuple(chosen), survey.visible(images), masks, relevance)
