"""Draw heatmaps: one PNG per image, for the most probable classes.

  zennit-isnet explain results/train/best.ckpt photos/ --output heatmaps
  zennit-isnet explain resnet50 photos/ --checkpoint resnet50.pth --imagenet --classes imagenet.txt

Red is evidence for the class, blue against it. A clean heatmap does not prove that the background does not matter:
use `audit`, which changes the backgrounds.

Exit status: 0 if the heatmaps were written, 2 for wrong usage, images or weights.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torchvision.tv_tensors import Mask
from tqdm import tqdm

from zennit_isnet.audit.logits import check_names, probabilities, seeds_for
from zennit_isnet.command.classifier import (
    add_classifier,
    check_classifier,
    complete,
    model_of,
    normalization_of,
    transform_of,
)
from zennit_isnet.data.decoding import read_image
from zennit_isnet.data.files import EXTENSIONS, files_below
from zennit_isnet.errors import InvalidValueError, ISNetError
from zennit_isnet.formulations import Target
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.model import main_logits
from zennit_isnet.plotting import heatmap_panel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_classifier(parser)
    parser.add_argument("images", metavar="IMAGES", help="folder of images, including subfolders")
    parser.add_argument("--top", type=int, default=2, help="number of most probable classes to explain; default: 2")
    parser.add_argument("--output", type=Path, default=Path("heatmaps"), help="folder for the PNGs; default: heatmaps")


def run(options: argparse.Namespace) -> int:
    """Explain, write the pictures, and return the exit status."""
    check_classifier(options)
    try:
        written = _explain(options)
    except (ISNetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{written} heatmaps written to {options.output}\n")
    return 0


def _explain(options: argparse.Namespace) -> int:
    classes = complete(options)
    if classes is None:
        raise InvalidValueError("the model's classes are unknown: give --classes, a file with one class per line")
    files = files_below(options.images, EXTENSIONS)
    if not files:
        raise InvalidValueError(f"IMAGES must be a folder of images; {options.images} contains none")
    model, transform = model_of(options, len(classes)), transform_of(options)
    attribution = LRPAttribution(LRPFlex(reference="darkest"))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in normalization_of(options) or ([0.0], [1.0]))
    for file in tqdm(files, disable=not sys.stderr.isatty()):
        image = read_image(file)
        image, _ = transform(image, Mask(torch.ones(1, *image.shape[-2:], dtype=torch.bool)))
        batch = image.as_subclass(torch.Tensor).unsqueeze(0).to(options.device)
        with torch.no_grad():
            logits = main_logits(model(batch), 1)
        scores = (logits.sigmoid() if options.multi_label else probabilities(logits))[0]
        check_names(classes, len(scores))
        maps = {}
        for label in scores.argsort(descending=True)[: options.top].tolist():
            explained = Target(label) if options.multi_label else partial(seeds_for, torch.tensor([label]))
            _, relevance = attribution(model, batch, explained, create_graph=False)
            maps[f"{classes[label]}\n{100 * scores[label]:.0f} %"] = relevance["input"][:, 0].detach().float().cpu()
        shown = (batch.cpu() * std + mean).clamp(0, 1)
        target = options.output / f"{os.path.relpath(file, options.images)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        heatmap_panel(shown, None, maps).savefig(target, dpi=120)
    return len(files)
