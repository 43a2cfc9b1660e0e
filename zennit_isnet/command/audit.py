"""Report whether a model looks at the background, before any training.

Its accuracy when the backgrounds of images are swapped, and where the relevance of its predictions lies. Writes
report.html, report.md and report.json.

  zennit-isnet audit resnet50 photos/ masks/ --checkpoint resnet50.pth --imagenet
  zennit-isnet audit resnet50 photos/ masks/ --checkpoint resnet50.pth --imagenet --classes imagenet.txt
  zennit-isnet audit my_models:make photos/ masks/ --size 128
  zennit-isnet audit resnet18 --benchmark patch --checkpoint digits.pth

Exit status: 0 when the report was written, whatever its verdict, 2 after wrong usage, data or weights.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from zennit_isnet.audit import audit
from zennit_isnet.audit.loading import load_model
from zennit_isnet.audit.reading import Normalization
from zennit_isnet.command.check_data import add_source, check_source, open_source
from zennit_isnet.data import BackgroundBias, evaluation_transform
from zennit_isnet.data.background_bias import Background, Bias
from zennit_isnet.data.files import MaskedFiles
from zennit_isnet.errors import InvalidValueError, ISNetError

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("model", metavar="MODEL", help="a classifier of torchvision, or module:function that makes one")
    add_source(parser, required=False)
    parser.add_argument("--classes", type=Path, help="file of the model's classes, one a line; default: as in IMAGES")
    parser.add_argument("--checkpoint", type=Path, help="file of weights; a classifier of torchvision needs one")
    parser.add_argument("--benchmark", choices=get_args(Bias), help="audit on the built-in digits instead of IMAGES")
    backgrounds = "background of the built-in digits; default: biased, where it names the class"
    parser.add_argument("--background", choices=get_args(Background), default="biased", help=backgrounds)
    parser.add_argument("--size", type=int, help="height and width in pixels; default: 224, or 32 for the digits")
    parser.add_argument("--grey", action="store_true", help="the model takes grey images, of one channel")
    parser.add_argument("--mean", type=float, nargs="+", help="mean of each channel, for the normalisation of images")
    parser.add_argument("--std", type=float, nargs="+", help="standard deviation; default: images stay in [0, 1]")
    parser.add_argument("--imagenet", action="store_true", help="normalise as torchvision's ImageNet weights expect")
    parser.add_argument("--limit", type=int, help="audit this many images, drawn at random; default: all")
    parser.add_argument("--batch-size", type=int, default=32, help="images that the model takes at once; default: 32")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images; default: 0, none")
    parser.add_argument("--device", type=_device, default="cpu", help="such as cuda; default: cpu")
    parser.add_argument("--examples", type=int, default=8, help="worst and random images that are shown; default: 8")
    parser.add_argument("--tolerance", type=float, default=0.05, help="change of accuracy that is none; default: 0.05")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of donors and of images; default: 0")
    parser.add_argument("--output", type=Path, default=Path("audit"), help="folder of the report; default: audit")


def _device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, not built in, or not there
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {str(error).splitlines()[0]}") from None


def run(options: argparse.Namespace) -> int:
    """Audit, write the report, and return the exit status."""
    normalization = _checked(options)
    try:
        data = _data(options, normalization)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(options.seed))
        part = Subset(data, order[: options.limit].sort().values.tolist())
        model = load_model(options.model, len(data.classes), options.checkpoint).to(options.device)
        report = audit(
            model,
            DataLoader(part, options.batch_size, num_workers=options.workers),
            normalization=normalization,
            classes=data.classes,
            examples=options.examples,
            tolerance=options.tolerance,
            seed=options.seed,
            progress=sys.stderr.isatty(),
            names=(options.model, str(options.images or f"the digits with a {options.benchmark} background")),
        )
        options.output.mkdir(parents=True, exist_ok=True)
        report.to_json(options.output / "report.json")
        report.to_markdown(options.output / "report.md")
        report.to_html(options.output / "report.html")
    except (ISNetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"Verdict: {report.verdict.outcome}. {report.verdict.reason}\n")
    sys.stdout.write(f"Written to {options.output}: report.html, .md, .json\n")
    return 0


def _checked(options: argparse.Namespace) -> Normalization | None:
    """Check what belongs together; return the normalisation."""
    error = options.parser.error
    if (options.images is None) == (options.benchmark is None):
        error("give IMAGES, or --benchmark")
    if options.images is not None:
        check_source(options)
    if (options.mean is None) != (options.std is None) or (options.imagenet and options.mean is not None):
        error("give --mean and --std, or --imagenet, or none of them")
    if options.benchmark is not None and (options.imagenet or options.mean or options.grey or options.classes):
        error("the digits of --benchmark have ten classes, colours and no normalisation; leave such options out")
    for name in ("size", "limit", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    if options.grey and options.imagenet:
        error("--imagenet normalises three channels; give --grey its own --mean and --std")
    for name, values in (("mean", options.mean), ("std", options.std)):
        if values is not None and len(values) != 1 and (options.grey or len(values) != 3):
            error(f"--{name} must be 1 number{'' if options.grey else ' or 3'}; got {len(values)}")
    return IMAGENET if options.imagenet else None if options.mean is None else (options.mean, options.std)


def _data(options: argparse.Namespace, normalization: Normalization | None) -> Any:
    if options.benchmark is not None:
        size, bias, background = options.size or 32, options.benchmark, options.background
        return BackgroundBias(split="test", bias=bias, background=background, size=size, seed=options.seed)
    transform: Any = evaluation_transform(options.size or 224, *(normalization or (None, None)))
    if options.grey:
        transform = v2.Compose([v2.Grayscale(), transform])
    # an image whose crop has lost the object is left out by the audit, as one without a mask
    data = open_source(options, transform=transform, empty="skip-penalty")
    return data if options.classes is None else _in_order_of(options.classes, data)


def _in_order_of(file: Path, data: MaskedFiles) -> MaskedFiles:
    """Number the classes of a data set as the lines of a file do."""
    classes = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    unknown = sorted(set(data.classes) - set(classes))
    if unknown or len(set(classes)) < len(classes):
        problem = f"lacks {', '.join(unknown)}" if unknown else "names a class twice"
        raise InvalidValueError(f"{file} must name each class once, one a line; it {problem}")
    numbers = torch.tensor([classes.index(name) for name in data.classes])
    data.targets, data.classes = numbers[data.targets], classes
    return data
