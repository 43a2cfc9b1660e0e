"""Times and memory of training steps."""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
from steps import PERIODS, Case, build
from torch.profiler import ProfilerActivity, profile

from zennit_isnet.errors import RelevanceRangeWarning


def seconds(step: Callable[[], None], device: torch.device, repeats: int = 1) -> float:
    """Duration of some steps, by CUDA events on a GPU."""
    if device.type != "cuda":
        return timeit(step, number=repeats)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def paired_ratios(case: Case, names: list[str], rounds: int, device: torch.device) -> dict[str, Any]:
    """Ratio of each variant's step to the plain step measured right before it.

    They take turns in one process, on one model, so other load on the machine affects both equally. Reported are the
    median over the rounds and the quartiles.
    """
    steps = build(case, ["plain", *names], device)
    warnings.simplefilter("ignore", RelevanceRangeWarning)
    for name, step in steps.items():
        seconds(step, device, PERIODS.get(name, 1))
    plain, ratios = [], {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            period = PERIODS.get(name, 1)
            before = seconds(steps["plain"], device, period)
            plain.append(before / period)
            ratios[name].append(seconds(steps[name], device, period) / before)
    rows = {}
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        rows[name] = {"ratio": middle, "low": low, "high": high, "rounds": rounds}
    return {"case": dataclasses.asdict(case), "plain_seconds": statistics.median(plain), "ratios": rows}


def peak_memory(case: Case, name: str, device: torch.device) -> float:
    """MiB above the idle model at the peak of one step; call it in a process of its own.

    On the CPU the profiler's allocation records are summed, which depends neither on the allocator nor on its cache.
    """
    step = build(case, [name], device)[name]
    warnings.simplefilter("ignore", RelevanceRangeWarning)
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        idle = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - idle) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    total = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            peak = max(peak, total)
    return peak / 2**20


def peak_memory_of_process(case: Case, name: str) -> float:
    """Peak memory, measured in a new process."""
    request = json.dumps({"case": dataclasses.asdict(case), "name": name})
    command = [sys.executable, str(Path(__file__)), request]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="peak memory of one step in MiB")
    parser.add_argument("request", help="JSON with the case and the variant's name")
    asked = json.loads(parser.parse_args().request)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(peak_memory(Case(**asked["case"]), asked["name"], here))
