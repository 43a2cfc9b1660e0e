"""Textures: real photographs and their cuts."""

import sys

import pytest
import torch

from zennit_isnet.data.background_bias import CUTS_PER_SIDE, TEXTURES, cut_textures, load_texture
from zennit_isnet.errors import MissingDependencyError


def test_there_is_one_source_for_each_class() -> None:
    assert len(set(TEXTURES)) == 10


@pytest.mark.parametrize("name", TEXTURES)
def test_source_is_a_structured_picture_of_the_requested_side(name: str) -> None:
    picture = load_texture(name, side=96)
    assert picture.shape[0] == 3
    assert min(picture.shape[1:]) == 96
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < picture.max() <= 1
    assert picture.std() > 0.05


def test_cuts_are_pieces_of_the_source_that_the_cue_names() -> None:
    size = 16
    cues = torch.tensor([0, 9, 5])
    positions = torch.tensor([[0.0, 0.0], [0.999999, 0.999999], [0.5, 0.25]])
    cuts = cut_textures(cues, positions, size)
    pictures = [load_texture(TEXTURES[cue], CUTS_PER_SIDE * size) for cue in cues.tolist()]
    assert cuts.shape == (3, 3, size, size)
    assert torch.equal(cuts[0], pictures[0][:, :size, :size])
    assert torch.equal(cuts[1], pictures[1][:, -size:, -size:])
    top, left = ((length - size + 1) * share for length, share in zip(pictures[2].shape[1:], (0.5, 0.25), strict=True))
    assert torch.equal(cuts[2], pictures[2][:, int(top) : int(top) + size, int(left) : int(left) + size])


@pytest.mark.parametrize("module", ["skimage.data", "sklearn.datasets"])
def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    package = {"skimage.data": "scikit-image", "sklearn.datasets": "scikit-learn"}[module]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        cut_textures(torch.tensor([0]), torch.zeros(1, 2), size=16)
