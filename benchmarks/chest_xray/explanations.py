"""Does a heatmap show the shortcut? Explanations of classifiers whose reliance on the tag is measured by removing it.

For each network trained by `study.py`, two figures: how far its logits move when the tag is painted over on the test
films (the reliance), and the share of each explanation on the tag. For an explanation that shows the shortcut, the
share rises with the reliance; for one that only shows contrast, it is the same for all networks.

    python benchmarks/chest_xray/explanations.py FOLDER --results results/chest_xray
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from films import Films, normalized, read_films, tag_corner, tagged, without_corner
from report import rows_of
from scipy.stats import spearmanr
from study import RESULTS
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from ways import WAYS, make_network
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonAlpha2Beta1, EpsilonGammaBox

from zennit_isnet import LRPAttribution, LRPFlex, ZPlus, box_from_normalization, differentiable
from zennit_isnet.gradients import GradCAM, GradientTimesInput, InputGradient, IntegratedGradients

Explain = Callable[..., tuple[Any, Any]]

BOX = box_from_normalization([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def _flex(**options: Any) -> Explain:
    return LRPAttribution(LRPFlex(reference="darkest", **options))


def _zennit(composite: Any) -> Explain:
    return LRPAttribution(differentiable(composite, canonizers=[SequentialMergeBatchNorm()]))


def explanations(layer: str) -> dict[str, Explain]:
    """Return the explanations to compare; `layer` is for Grad-CAM."""
    low, high = (torch.as_tensor(bound).view(1, -1, 1, 1) for bound in BOX)
    return {
        "LRP-Flex, ε = 0.01": _flex(epsilon=0.01),
        "LRP-Flex, ε = 1": _flex(epsilon=1.0),
        "LRP-Flex, ε = 3": _flex(epsilon=3.0),
        "LRP-Flex, ε ratio 0.1": _flex(epsilon_ratio=0.1),
        "LRP-Flex, ε ratio 1": _flex(epsilon_ratio=1.0),
        "LRP-z⁺": LRPAttribution(ZPlus(box=BOX)),
        "LRP-α2β1": _zennit(EpsilonAlpha2Beta1()),
        "LRP-γ": _zennit(EpsilonGammaBox(low=low, high=high)),
        "input gradient": InputGradient(),
        "gradient × input": GradientTimesInput(),
        "integrated gradients": IntegratedGradients(steps=16),
        "Grad-CAM": GradCAM(layer),
    }


def covid_over_normal(logits: Tensor) -> Tensor:
    """Return the seeds ``(N, 1, 2)`` that explain the difference of the two logits."""
    return logits.new_tensor([-1.0, 1.0]).expand(len(logits), 1, 2)


def reliance(network: nn.Module, films: Films) -> float:
    """Return the relative change of the logit difference when the tag is painted over."""
    with torch.no_grad():
        scores = [
            torch.cat([network(normalized(part)).diff(dim=1)[:, 0] for part in images.split(32)])
            for images in (tagged(films, torch.ones(len(films), dtype=torch.bool)).images, films.images)
        ]
    return ((scores[0] - scores[1]).abs().mean() / scores[0].abs().mean()).item()


def share_on_tag(relevance: Tensor, size: int) -> Tensor:
    """Return the share of ``|R|`` ``(N, C, h, w)`` in the cells that the tag touches; NaN if there is no relevance.

    `size` is the side of the films.
    """
    corner = torch.zeros(1, 1, size, size)
    corner[(..., *tag_corner(size))] = 1
    inside = F.adaptive_max_pool2d(corner, relevance.shape[-2:])
    amount = relevance.abs().sum(1, keepdim=True)
    return (amount * inside).sum((1, 2, 3)) / amount.sum((1, 2, 3))


@dataclass(frozen=True)
class Explained:
    """Results for one network: its reliance, and the mean share on the tag for each explanation."""

    name: str
    reliance: float
    shares: dict[str, float]


def explain(name: str, network: nn.Module, films: Films) -> Explained:
    """Explain a network on films that all carry the tag."""
    network.eval()
    images = tagged(films, torch.ones(len(films), dtype=torch.bool)).images
    share = partial(share_on_tag, size=images.shape[-1])
    found: dict[str, list[Tensor]] = {"contrast, x − darkest": [share(images - images.amin((2, 3), keepdim=True))]}

    def measure(kind: str, attribution: Explain) -> list[str]:
        for part in images.split(16):
            inputs = normalized(part).requires_grad_()
            _, relevance = attribution(network, inputs, covid_over_normal, create_graph=False)
            for place, values in relevance.items():
                row = kind if len(relevance) == 1 else f"{kind}, at {place}"
                found.setdefault(row, []).append(share(values[:, 0].detach()))
        return [place.layer for place in relevance]

    *_, last = measure("LRP-Flex, defaults", LRPAttribution(LRPFlex(reference="darkest"), layers="auto"))
    for kind, attribution in tqdm(explanations(last).items(), desc=name, leave=False):
        measure(kind, attribution)
    shares = {kind: torch.cat(parts).nanmean().item() for kind, parts in found.items()}
    return Explained(name, reliance(network, films), shares)


def table(networks: Sequence[Explained]) -> str:
    """Return the shares in percent, networks sorted by reliance, and each explanation's rank correlation with it."""
    networks = sorted(networks, key=lambda one: one.reliance)
    reliances = [one.reliance for one in networks]
    lines = [["explanation", *(one.name for one in networks), "ρ"]]
    lines.append(["**reliance: logits moved by painting the tag over**", *(f"{r:.2f}" for r in reliances), "1"])
    for kind in networks[0].shares:
        shares = [one.shares[kind] for one in networks]
        order = spearmanr(reliances, shares).statistic if len(set(shares)) > 1 else 0.0
        lines.append([kind, *(f"{100 * share:.1f}" for share in shares), f"{order:.2f}"])
    return rows_of(lines)


def main(arguments: Sequence[str] | None = None) -> str:
    """Write ``chest_xray_explanations.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER", help="folder that holds talo.csv")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the runs' files")
    parser.add_argument("--network", default="lite0", help="lite0, or a classifier of torchvision")
    parser.add_argument("--size", type=int, default=112, help="height and width in pixels")
    parser.add_argument("--films", type=int, default=64, help="largest number of test X-rays")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "results", help="folder to write to")
    options = parser.parse_args(arguments)
    weights = [path for path in sorted(options.results.glob(f"*-{options.network}-*/*.pt")) if not _blanked(path)]
    if not weights:
        parser.error(f"no weights of {options.network} in {options.results}; run study.py first")
    films = without_corner(read_films(options.data, "talo", "test", options.size))
    drawn = torch.randperm(len(films), generator=torch.Generator().manual_seed(0))[: options.films]
    films = replace(films, images=films.images[drawn], masks=films.masks[drawn], labels=films.labels[drawn])
    explained = []
    for path in tqdm(weights, unit="network"):
        network = make_network(options.network)
        network.load_state_dict(torch.load(path, weights_only=True))
        explained.append(explain(f"{path.parent.name.split('-')[0]}, {path.stem}", network, films))
    text = f"Mean share of the relevance on the tag, in %, on {len(films)} test X-rays that all carry the tag.\n\n"
    text += table(explained) + "\n"
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "chest_xray_explanations.md").write_text(text)
    print(text)
    return text


def _blanked(weights: Path) -> bool:
    """Whether a network has only seen black backgrounds."""
    return WAYS[weights.stem.rpartition("-seed")[0]].blank


if __name__ == "__main__":
    main()
