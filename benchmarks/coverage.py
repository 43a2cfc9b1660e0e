"""Which classifiers of torchvision and timm LRPFlex covers, with the reason where it does not: a table from `check`.

    python benchmarks/coverage.py            # both; writes benchmarks/results/coverage.md
    python benchmarks/coverage.py --timm-only

Beside the checker's verdict stands the conservation error: relevance without biases against the explained logit, in
float64 at ε = 1e-30, on randomly initialised weights.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from tqdm import tqdm

from zennit_isnet import LRPAttribution, LRPFlex, Target, check
from zennit_isnet.errors import ISNetError

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
"""Diverse architectures of timm; those that an installed version does not know are named in the table."""


def candidates(options: argparse.Namespace) -> Iterator[tuple[str, nn.Module | None, int]]:
    """Yield name, model and image size; None for a name that is not known."""
    if not options.timm_only:
        for name in torchvision.models.list_models(module=torchvision.models):
            if not any(part in name for part in options.without):
                arguments: dict[str, Any] = {"init_weights": False} if name.startswith(("googlenet", "incep")) else {}
                yield f"torchvision {name}", torchvision.models.get_model(name, num_classes=10, **arguments), 224
    timm = importlib.import_module("timm")
    for name in TIMM:
        known = timm.is_model(name)
        model = timm.create_model(name, pretrained=False, num_classes=10) if known else None
        yield f"timm {name}", model, model.default_cfg["input_size"][-1] if known else 0


@torch.no_grad()
def without_biases(model: nn.Module) -> nn.Module:
    """Zero what adds a constant, in float64, and refill what is initialised with zeros."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        constant = name.endswith(("bias", "running_mean", "_token", "embedding", "beta"))
        if constant or "pos_emb" in name:
            value.zero_()
        elif value.is_floating_point() and value.numel() and not value.any():
            value.normal_(0, 0.1)
    return model.double()


def conservation_error(model: nn.Module, size: int) -> float:
    """Return ``|Σ R − y| / |y|`` for the largest logit."""
    model = without_biases(model).eval()
    images = torch.rand(1, 3, size, size, dtype=torch.float64)
    strongest = model(images).abs().argmax(1)
    attribution = LRPAttribution(LRPFlex(1e-30))
    logits, relevance = attribution(model, images, Target(strongest), create_graph=False)
    logit = logits[0, strongest[0]]
    return ((relevance["input"].sum() - logit) / logit).abs().item()


def row(name: str, model: nn.Module | None, size: int) -> str:
    """Return one line of the table."""
    if model is None:
        return f"| {name} | – | – | this version of timm does not have it |"
    try:
        report = check(model.eval(), torch.rand(1, 3, size, size))
    except ISNetError as error:
        return f"| {name} | no | – | {error} |"
    if report.problems:
        reasons = "; ".join(dict.fromkeys(f"`{p.module}` {p.operation}: {p.remedy}" for p in report.problems[:2]))
        return f"| {name} | no | – | {reasons} |"
    rules = ", ".join(sorted({r.rule for r in report.rows if r.rule}))
    return f"| {name} | yes | {conservation_error(model, size):.0e} | {rules} |"


def main() -> None:
    """Check all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm-only", action="store_true")
    parser.add_argument("--without", nargs="*", default=(), help="leave torchvision models with these in the name out")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "coverage.md")
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = ["| model | covered | conservation error | rules, or why not |", "| --- | --- | --- | --- |"]
    lines += [row(*candidate) for candidate in tqdm(candidates(options), unit="model")]
    covered = sum("| yes |" in line for line in lines)
    arguments = " ".join(["", *sys.argv[1:]])
    head = f"Command: `python benchmarks/coverage.py{arguments}`; {covered} of {len(lines) - 2} models are covered."
    options.output.write_text("\n".join([head, "", *lines, ""]))
    print(head)


if __name__ == "__main__":
    main()
