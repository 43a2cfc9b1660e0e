"""Audit a classifier: whether it looks at the background, before anything is done about it.

Trains a plain classifier on digits whose background gives the class away, or loads one, and writes the audit's report
as HTML, Markdown and JSON. The test images have biased backgrounds as well: accuracy on them is near 100 %, and nothing
but the audit tells what is wrong.

    python examples/audit.py --bias texture
    python examples/audit.py --checkpoint my_digits.pth

For images of your own there is the command ``zennit-isnet audit``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from bias_training import make_model, train

from zennit_isnet.architectures import load_weights
from zennit_isnet.audit import AuditReport, audit
from zennit_isnet.data import BackgroundBias, load_digits


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="any torchvision classifier (default: resnet18)")
    parser.add_argument("--checkpoint", type=Path, help="weights of a classifier with ten classes, instead of training")
    parser.add_argument("--bias", choices=("patch", "texture"), default="patch", help="what gives the class away")
    parser.add_argument("--plain-epochs", type=int, default=2, help="epochs of the plain training")
    parser.add_argument("--lr", type=float, default=0.05, help="highest learning rate (SGD, one cycle)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/audit"), help="folder for the report")
    options = parser.parse_args(arguments)
    if options.plain_epochs < 1 or options.batch_size < 1:
        parser.error("--plain-epochs and --batch-size must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> AuditReport:
    """Train or load, audit, and write the report."""
    options = parse(arguments)
    options.digits = load_digits()
    options.weight = 0.0  # a plain training has no heatmap loss
    options.output.mkdir(parents=True, exist_ok=True)
    if options.checkpoint is None:
        model, _ = train("plain", "biased", options)
        torch.save(model.state_dict(), options.output / "model.pth")
    else:
        model = make_model(options.model)
        load_weights(model, options.checkpoint)
    data = BackgroundBias(split="test", bias=options.bias, seed=options.seed, source=options.digits, size=options.size)
    report = audit(model, data, seed=options.seed, names=(options.model, f"digits with a {options.bias} as background"))
    report.to_html(options.output / "report.html")
    report.to_markdown(options.output / "report.md")
    report.to_json(options.output / "report.json")
    print(f"\nVerdict: {report.verdict.outcome}. {report.verdict.reason}")
    print(f"Written to {options.output}: report.html, report.md, report.json")
    return report


if __name__ == "__main__":
    main()
