"""Measures of a classifier's logits; every class counts equally, however many images it has."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification as measures


def figures(logits: Tensor, labels: Tensor, *, areas: bool = True) -> dict[str, float]:
    """Return balanced accuracy and further measures.

    Parameters
    ----------
    logits : Tensor
        Logits of the images, ``(n, C)``.
    labels : Tensor
        Classes ``(n,)``, or 0 and 1 ``(n, C)`` for several labels per image.
    areas : bool, default=True
        Whether to compute AUROC, which is slow for many classes.

    Returns
    -------
    dict of str to float
        ``balanced_accuracy`` (the mean recall of the classes, or for several labels the mean of each label's
        sensitivity and specificity), ``macro_f1`` and ``auroc``; for two classes also ``sensitivity`` (the recall of
        class 1) and ``specificity`` (the recall of class 0). Classes without images are left out; empty without images.
    """
    if not len(labels):
        return {}
    several, count = labels.is_floating_point(), logits.shape[1]
    scores = logits.float().sigmoid() if several else logits.float().softmax(1)
    target = labels.long()
    of_class = target if several else F.one_hot(target, count)
    present = of_class.any(0)
    both = present & ~of_class.all(0)
    if several:
        counts = measures.multilabel_stat_scores(scores, target, count, average=None)
    else:
        counts = measures.multiclass_stat_scores(scores, target, count, average=None)
    right, false, rejected, missed, _ = counts.double().unbind(-1)
    recall = right / (right + missed)
    accuracies = (recall + rejected / (rejected + false))[both] / 2 if several else recall[present]
    found = {"balanced_accuracy": accuracies.mean()}
    found["macro_f1"] = (2 * right / (2 * right + false + missed))[present].mean()
    if areas and both.any():
        each = [measures.binary_auroc(scores[:, one], of_class[:, one]) for one in both.nonzero()[:, 0].tolist()]
        found["auroc"] = torch.stack(each).mean()
    if not several and count == 2:
        found |= {name: recall[label] for name, label in (("sensitivity", 1), ("specificity", 0)) if present[label]}
    return {name: value.item() for name, value in found.items() if value.isfinite()}


def donors_of_other_classes(labels: Tensor, takes_part: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a background donor with other labels for each image of a batch.

    Parameters
    ----------
    labels : Tensor
        ``(N,)`` or ``(N, C)``.
    takes_part : Tensor of bool
        ``(N,)``, images with a mask and background.
    generator : Generator
        On the CPU.

    Returns
    -------
    Tensor
        ``(N,)``, the indices of the donors; the image itself if there is no other donor.
    """
    rows = labels.view(len(labels), -1)
    lends = (rows.unsqueeze(0) != rows.unsqueeze(1)).any(2) & takes_part & takes_part.unsqueeze(1)
    draws = torch.rand(lends.shape, generator=generator).to(lends.device).masked_fill(~lends, -1)
    own = torch.arange(len(labels), device=labels.device)
    return torch.where(lends.any(1), draws.argmax(1), own)
