"""What the package never does: load pickles, run text as code, reach the network."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("zennit_isnet", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)

FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load", "dill.load"),
    *("torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file"),
}
NETWORK = {"socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}


def forbidden(source: str) -> list[str]:
    """Lines of what must not stand in a source file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: import {name}" for name in modules if name.split(".")[0] in NETWORK]
        elif isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = name == "torch.load" and options.get("weights_only") != "True"
            unsafe |= name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False"
            if unsafe or name in FORBIDDEN_CALLS:
                found.append(f"{node.lineno}: {name}")
    return found


def test_no_source_loads_pickles_runs_text_or_opens_sockets():
    assert len(SOURCES) > 60
    assert {str(path): found for path in SOURCES if (found := forbidden(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "line",
    [
        *("torch.load(file)", "torch.load(file, weights_only=False)", "np.load(file, allow_pickle=True)"),
        *("pickle.loads(text)", "eval(text)", "import urllib.request", "from socket import socket"),
    ],
)
def test_that_test_would_see(line):
    assert len(forbidden(line)) == 1
    assert forbidden("torch.load(file, weights_only=True); model.eval(); np.load(file); re.compile(text)") == []


OFFLINE = """
import pkgutil, importlib, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import zennit_isnet
for module in pkgutil.walk_packages(zennit_isnet.__path__, "zennit_isnet."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import torch
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(400, 3))
regularizer = zennit_isnet.ISNetRegularizer(model, layers=())
regularizer.calibrate([torch.rand(4, 3, 12, 12)], progress=False)
regularizer(torch.rand(2, 3, 12, 12), torch.ones(2, 1, 12, 12))[1].backward()
"""


@pytest.mark.slow
def test_neither_an_import_nor_a_call_asks_for_the_network():
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
