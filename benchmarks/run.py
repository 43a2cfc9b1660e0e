"""Measure the cost of the penalty: ``python benchmarks/run.py`` writes a table, its numbers and a plot."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from measure import paired_ratios, peak_memory_of_process
from report import plot, table
from steps import VARIANTS, Case

ALL = [name for name in VARIANTS if name != "plain"]
BY_CLASSES = ["RRR", "Selective", "Stochastic", "defaults"]
FEW = ["RRR", "Selective", "defaults"]
PAPERS = ["RRR", "Selective", "Stochastic", "Original", "Dual", "defaults"]
TIMES: list[tuple[Case, list[str]]] = [
    (Case("resnet18", 16, 128), ALL),
    (Case("resnet18", 16, 128, channels_last=True), FEW),
    (Case("resnet18", 16, 128, classes=100), BY_CLASSES),
    (Case("resnet18", 16, 128, classes=1000), BY_CLASSES),
    (Case("resnet18", 16, 128, bf16=True), FEW),
    (Case("resnet50", 8, 128), FEW),
    (Case("densenet121", 8, 96), PAPERS),
    (Case("vgg11_bn", 8, 96), FEW),
    (Case("efficientnet_b0", 8, 128), FEW),
    (Case("efficientnet_lite0", 8, 128), FEW),
    (Case("convnext_tiny", 4, 128), FEW),
    (Case("vit_b_32", 4, 224), ["Selective", "defaults"]),
]
"""The papers' network has their variants. RRR is left out for ViT, because PyTorch's fused attention has no second
derivative."""

ON_GPU: list[tuple[Case, list[str]]] = [
    (Case("resnet50", 64, 224), FEW),
    (Case("resnet50", 64, 224, bf16=True, channels_last=True), FEW),
    (Case("densenet121", 32, 224), FEW),
    (Case("densenet121", 32, 224, bf16=True), FEW),
]
"""Where there is one, beside the others: images of the usual size, and the network of the papers."""

MEMORY: list[tuple[Case, list[str]]] = [
    (Case("resnet18", 32, 128), ["plain", "RRR", "Selective", "Selective, z^B", "defaults"]),
    (Case("resnet50", 8, 128), ["plain", *FEW]),
]


def device_name(device: torch.device) -> str:
    """Name of the GPU with its cuDNN version, or of the CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {len(models) or '?'} core(s)"


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each variant (default: 9)")
    parser.add_argument("--models", nargs="*", help="only these models")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch on the CPU")
    parser.add_argument("--skip-memory", action="store_true", help="measure times only")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "threads": options.threads,
        "command": f"python benchmarks/run.py --rounds {options.rounds} --threads {options.threads}",
        "times": [],
        "memory": [],
    }
    print(results["device"])
    options.output.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (options.output / "results.md").write_text(table(results))

    for case, names in [] if options.skip_memory else MEMORY:
        if not options.models or case.model in options.models:
            peaks = {name: peak_memory_of_process(case, name) for name in names}
            results["memory"].append({"case": case.__dict__, "peaks": peaks})
            print(case, {name: f"{peak:.0f} MiB" for name, peak in peaks.items()}, flush=True)
    for case, names in TIMES + (ON_GPU if device.type == "cuda" else []):
        if not options.models or case.model in options.models:
            results["times"].append(paired_ratios(case, names, options.rounds, device))
            ratios = {name: f"{row['ratio']:.2f}" for name, row in results["times"][-1]["ratios"].items()}
            print(case, ratios, flush=True)
            save()
    save()
    if any(entry["case"]["model"] == "resnet18" for entry in results["times"]):
        plot(results, options.output / "ratio_by_classes.png")


if __name__ == "__main__":
    main()
