"""Which classifiers of torchvision and timm LRPFlex covers, and why it does not cover the others, from `check`.

    python benchmarks/coverage.py  # writes benchmarks/results/coverage.md

The table also gives the conservation error: relevance without biases against the explained logit, in float64 at ε =
1e-30, with random weights. The layers chosen by ``layers="auto"`` are listed by number and size; *part* says that the
relevance there is not all of the logit's, as in one of several parallel branches.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from zennit_isnet import LRPAttribution, LRPFlex, Target, check
from zennit_isnet.errors import ISNetError
from zennit_isnet.lrp import INPUT

TIMM = (
    *("resnet18", "resnet50d", "seresnet50", "ecaresnet26t", "skresnet18", "resnest14d", "res2net50_26w_4s"),
    *("resnext26ts", "gluon_resnet18_v1b", "wide_resnet50_2", "densenet121", "dpn48b", "dla34", "vgg11_bn"),
    *("regnetx_002", "regnety_002", "efficientnet_b0", "tf_efficientnetv2_b0", "mixnet_s", "mnasnet_small"),
    *("mobilenetv2_050", "mobilenetv3_small_050", "mobilenetv4_conv_small", "ghostnet_050", "hardcorenas_a"),
    *(
        "lcnet_050",
        "tinynet_e",
        "repvgg_a0",
        "mobileone_s0",
        "cspresnet50",
        "darknet53",
        "nf_resnet26",
        "hrnet_w18_small",
    ),
    *("inception_v3", "inception_v4", "xception41", "convnext_atto", "convnextv2_atto", "convmixer_768_32"),
    *(
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "cait_xxs24_224",
        "xcit_nano_12_p16_224",
        "beit_base_patch16_224",
    ),
    *("swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "maxvit_nano_rw_256", "coatnet_nano_rw_224"),
    *(
        "mixer_s32_224",
        "resmlp_12_224",
        "gmlp_s16_224",
        "poolformer_s12",
        "pvt_v2_b0",
        "levit_128s",
        "focalnet_tiny_srf",
    ),
    *("visformer_tiny", "efficientformer_l1", "edgenext_xx_small", "mobilevit_xxs", "fastvit_t8", "tresnet_m"),
)
"""Diverse architectures of timm; the table names those that the installed version lacks."""


SIZES = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "vit_h_14": 28, "s3d": 224}
SIZES |= dict.fromkeys(("mvit_v1_b", "mvit_v2_s"), 224)
"""Smallest image size in pixels that a torchvision classifier accepts, where it is not `SMALLEST`."""

FRAMES = {"s3d": 16, "mvit_v1_b": 16, "mvit_v2_s": 16}
"""Frames of the shortest video, where that is not `SHORTEST`."""

SMALLEST, SHORTEST = 32, 4

Candidate = tuple[str, Callable[[], nn.Module] | None, tuple[int, ...]]
"""Name, constructor (None if the name is unknown) and input shape."""


class WithoutInitialisation(TorchFunctionMode):
    """Skips the slow initialisation of large models; weights are drawn here instead."""

    SKIPPED = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Fill with zeros: truncated draws are repeated until they fall in range, which is slow."""
        return args[0].zero_() if func in self.SKIPPED else func(*args, **(kwargs or {}))


def torchvision_candidates(module: Any) -> Iterator[Candidate]:
    """Yield the classifiers of a torchvision module, each with the smallest input it accepts."""
    for name in torchvision.models.list_models(module=module):
        size = SIZES.get(name, SMALLEST)
        options: dict[str, Any] = {"image_size": size} if name.startswith("vit") else {}
        if name in ("googlenet", "inception_v3"):
            options = {"init_weights": False}
        frames = (FRAMES.get(name, SHORTEST),) if module is torchvision.models.video else ()
        make = partial(torchvision.models.get_model, name, num_classes=10, **options)
        yield name, make, (3, *frames, size, size)


def timm_candidates() -> Iterator[Candidate]:
    """Yield the classifiers of `TIMM`, with their native image size."""
    timm = importlib.import_module("timm")
    for name in TIMM:
        known = timm.is_model(name)
        shape = getattr(timm.get_pretrained_cfg(name), "input_size", (3, 224, 224)) if known else ()
        yield name, partial(timm.create_model, name, pretrained=False, num_classes=10) if known else None, shape


@torch.no_grad()
def without_biases(model: nn.Module) -> nn.Module:
    """Zero everything that adds a constant, in float64, and randomise what is initialised with zeros."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        constant = name.endswith(("bias", "running_mean", "_token", "_pos", "embedding", "beta"))
        if constant or "pos_emb" in name:
            value.zero_()
        elif value.is_floating_point() and value.numel() and not value.any():
            value.normal_(0, max(value[0].numel(), 1) ** -0.5 if value.ndim > 1 else 1)
    return model.double()


class Conservation(NamedTuple):
    """The sum of the relevance of a model's largest logit, relative to the logit."""

    error: float
    """``|Σ R − y| / |y|`` at the images."""
    layers: list[tuple[tuple[int, ...], float]]
    """Size, and ``Σ R / y``, of each layer that ``layers="auto"`` takes."""


def conservation(model: nn.Module, shape: tuple[int, ...]) -> Conservation:
    """Explain the largest logit at the images and at the layers."""
    model = without_biases(model).eval()
    images = torch.rand(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        strongest = model(images).abs().argmax(1)
    attribution = LRPAttribution(LRPFlex(1e-30), layers="auto")
    logits, relevance = attribution(model, images, Target(strongest), create_graph=False)
    logit = logits[0, strongest[0]]
    shares = {place: (heatmaps.sum() / logit).item() for place, heatmaps in relevance.items()}
    layers = [(tuple(relevance[place].shape[3:]), share) for place, share in shares.items() if place.layer]
    return Conservation(abs(shares[INPUT] - 1), layers)


def sizes(layers: list[tuple[tuple[int, ...], float]]) -> str:
    """Return number and sizes of layers: ``3: 8², 4² (part), 2²``; sizes that are not square with all their sides."""
    found = []
    for size, share in layers:
        square = len(size) == 2 and size[0] == size[1]
        text = f"{size[0]}²" if square else "×".join(map(str, size))
        found.append(text if abs(share - 1) < 1e-6 else f"{text} (part)")
    return f"{len(layers)}: {', '.join(found)}" if layers else "0"


def row(name: str, make: Callable[[], nn.Module] | None, shape: tuple[int, ...]) -> str:
    """Return one line of the table."""
    if make is None:
        return f"| {name} | – | – | – | not in this version |"
    with WithoutInitialisation():
        model = make()
    try:
        report = check(model.eval(), torch.rand(1, *shape))
    except ISNetError as error:
        return f"| {name} | no | – | – | {error} |"
    if report.problems:
        reasons = "; ".join(dict.fromkeys(f"`{p.module}` {p.operation}: {p.remedy}" for p in report.problems[:2]))
        return f"| {name} | no | – | – | {reasons} |"
    rules = ", ".join(sorted({r.rule for r in report.rows if r.rule}))
    error, layers = conservation(model, shape)
    return f"| {name} | yes | {error:.0e} | {sizes(layers)} | {rules} |"


def table(title: str, candidates: Iterable[Candidate]) -> list[str]:
    """Return heading and table of one source."""
    rows = [row(*candidate) for candidate in tqdm(list(candidates), desc=title, unit="model")]
    covered = sum("| yes |" in line for line in rows)
    head = ["| model | covered | conservation error | layers chosen by auto | rules, or why not |", "|" + " --- |" * 5]
    return [f"## {title}", "", f"{covered} of {len(rows)} are covered.", "", *head, *rows, ""]


def main() -> None:
    """Check all and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "coverage.md")
    options = parser.parse_args()
    torch.manual_seed(0)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    lines = [f"Command: `python benchmarks/coverage.py`, with {versions}.", ""]
    lines += table("Image classifiers of torchvision", torchvision_candidates(torchvision.models))
    lines += table("Video classifiers of torchvision", torchvision_candidates(torchvision.models.video))
    lines += table("Classifiers of timm", timm_candidates())
    options.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
