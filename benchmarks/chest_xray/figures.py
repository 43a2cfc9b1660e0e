"""Measures for a classifier with unequal classes, with intervals over patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from films import Films, normalized
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor, nn

from zennit_isnet import ISNetRegularizer, LRPFlex
from zennit_isnet.functional import background_share

Array = NDArray[np.float64]

RESAMPLES = 1000
"""Bootstrap samples of the patients."""

MEASURES: dict[str, Callable[[Array, Array, Array], float]] = {
    "balanced accuracy": lambda labels, _, predictions: metrics.balanced_accuracy_score(labels, predictions),
    "sensitivity": lambda labels, _, predictions: metrics.recall_score(labels, predictions, zero_division=np.nan),
    "specificity": lambda labels, _, predictions: metrics.recall_score(
        labels, predictions, pos_label=0, zero_division=np.nan
    ),
    "macro F1": lambda labels, _, predictions: metrics.f1_score(labels, predictions, average="macro"),
    "AUROC": lambda labels, scores, _: metrics.roc_auc_score(labels, scores),
}
"""Functions of labels, scores and predictions; those that compare classes are undefined for a source with one class."""

COMPARING = ("balanced accuracy", "macro F1", "AUROC")


@torch.no_grad()
def scores_of(network: nn.Module, films: Films) -> Array:
    """Return the probability of covid for each film, in eval mode."""
    network.eval()
    found = [network(normalized(part)).softmax(1)[:, 1] for part in films.images.split(64)]
    return torch.cat(found).double().numpy()


def best_threshold(labels: Tensor, scores: Array) -> float:
    """Return the score threshold with the highest balanced accuracy; of equally good ones, the middle one."""
    values = np.unique(scores)
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    accuracies = np.array([metrics.balanced_accuracy_score(labels.numpy(), scores > cut) for cut in cuts])
    best = np.flatnonzero(accuracies == accuracies.max())
    return float(cuts[best[len(best) // 2]])


def measured(films: Films, scores: Array, threshold: float) -> dict[str, list[float]]:
    """Return each measure with its 95 % bootstrap interval; patients are resampled."""
    labels, patients = films.labels.numpy(), np.array(films.patients)
    predictions = (scores > threshold).astype(int)
    of_patient = {patient: np.flatnonzero(patients == patient) for patient in np.unique(patients)}
    names, drawing = list(of_patient), np.random.default_rng(0)
    samples = [np.arange(len(labels))]
    for _ in range(RESAMPLES):
        samples.append(np.concatenate([of_patient[names[i]] for i in drawing.integers(len(names), size=len(names))]))
    found = {}
    for name, measure in MEASURES.items():
        possible = [s for s in samples if name not in COMPARING or len(np.unique(labels[s])) == 2]
        if not possible or len(possible[0]) != len(labels):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a sample without one of the classes
            values = [measure(labels[s], scores[s], predictions[s]) for s in possible]
        if np.isfinite(values[0]):
            low, high = np.nanquantile(values[1:], [0.025, 0.975])
            found[name] = [float(values[0]), float(low), float(high)]
    return found


def share_on_background(network: nn.Module, films: Films) -> float:
    """Return the mean share of |relevance| outside the lungs, for the true class."""
    explainer = ISNetRegularizer(network, composite=LRPFlex(reference="darkest"), layers=())
    shares: list[Tensor] = []
    parts: Sequence[Sequence[Tensor]] = [x.split(32) for x in (films.images, films.masks, films.labels)]
    for images, masks, labels in zip(*parts, strict=True):
        relevance = explainer.heatmap(normalized(images), labels)[:, 0]
        shares.append(background_share(relevance, masks, undefined="skip"))
    return torch.cat(shares).nanmean().item()
