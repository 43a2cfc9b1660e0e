"""Checks the built wheel and sdist: their files, their version, and the description that PyPI will show.

python .ci/check_dist.py dist [v1.2.3]
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

LEFTOVERS = re.compile(r"(^|/)(__pycache__|_build|dist|\.git|\.(hypothesis|venv|zennit|[a-z]+_cache)[^/]*)/|\.pyc$")
IN_WHEEL = {"zennit_isnet/__init__.py", "zennit_isnet/py.typed", "zennit_isnet_command.py"}
IN_SDIST = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "pyproject.toml", "tests/conftest.py"}
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|srcset|href)=[\"']([^\"']+)")


def problems(wheel: Path, sdist: Path, tag: str | None) -> list[str]:
    """Return a line for each thing that is wrong."""
    with zipfile.ZipFile(wheel) as archive:
        wheel_files = set(archive.namelist())
        (metadata_file,) = (name for name in wheel_files if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(metadata_file))
    with tarfile.open(sdist) as archive:
        sdist_files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}

    found = [f"{wheel.name} lacks {name}" for name in sorted(IN_WHEEL - wheel_files)]
    found += [f"{sdist.name} lacks {name}" for name in sorted((IN_SDIST | IN_WHEEL) - sdist_files)]
    for file, names in ((wheel, wheel_files), (sdist, sdist_files)):
        found += [f"{file.name} has {name}, which must stay out" for name in sorted(names) if LEFTOVERS.search(name)]
    dist_info = metadata_file.partition("/")[0]
    top_level = {name.partition("/")[0] for name in wheel_files}
    found += [
        f"{wheel.name} would install {name} beside the package"
        for name in sorted(top_level - {"zennit_isnet", "zennit_isnet_command.py", dist_info})
    ]
    if tag is not None and tag != f"v{metadata['Version']}":
        found.append(f"the tag is {tag} and the version is {metadata['Version']}: change pyproject.toml or the tag")
    description = metadata.get_payload(decode=True).decode("utf-8")
    targets = [target for groups in LINK.findall(description) for target in groups if target]
    if not targets:
        found.append("the description has no links; it should be README.md")
    found += [
        f"PyPI's description links to {target}, which is not absolute: see fancy-pypi-readme in pyproject.toml"
        for target in targets
        if not target.startswith("https://")
    ]
    return found


if __name__ == "__main__":
    folder, *tags = sys.argv[1:]
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    found = problems(wheel, sdist, tags[0] if tags else None)
    sys.exit("\n".join(found) if found else None)
