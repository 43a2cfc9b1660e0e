"""Classifiers by name, with heads and channels of the data."""

import pytest
import torch
import torchvision

from zennit_isnet.errors import InvalidValueError
from zennit_isnet.training.models import make_model


def test_the_head_fits_the_classes_and_the_rest_of_the_weights_is_kept(monkeypatch):
    pretrained = torchvision.models.squeezenet1_1()
    get_model = torchvision.models.get_model

    def without_download(name, weights, **options):
        return get_model(name, weights=None, **options) if weights is None else pretrained

    monkeypatch.setattr(torchvision.models, "get_model", without_download)
    model = make_model("squeezenet1_1", 3, "DEFAULT")
    assert model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert model.features[0] is pretrained.features[0]


def test_grey_images_get_the_answer_of_three_equal_channels():
    torch.manual_seed(0)
    coloured = make_model("squeezenet1_1", 3).eval()
    torch.manual_seed(0)
    grey = make_model("squeezenet1_1", 3, channels=1).eval()
    images = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(grey(images), coloured(images.expand(-1, 3, -1, -1)))


def test_a_function_makes_the_model_and_a_file_has_its_weights(tmp_path, monkeypatch):
    (tmp_path / "linear.py").write_text(
        "import torch\n\ndef net(num_classes):\n    return torch.nn.Linear(2, num_classes)\n"
    )
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    model = make_model("linear:net", 3, "net.pt")
    assert torch.equal(model.weight, torch.load(tmp_path / "net.pt")["weight"])


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet19", None, r"torchvision classifier, timm:name or module:function; got 'resnet19'; close .*resnet18"),
        ("resnet18", "IMAGENET1K_V9", "a file or one of resnet18's; got 'IMAGENET1K_V9'; close .*IMAGENET1K_V1"),
        ("torch.nn:Linear", "DEFAULT", "brings its own weights"),
    ],
)
def test_unknown_names_are_refused_with_close_matches(name, weights, says):
    with pytest.raises(InvalidValueError, match=says):
        make_model(name, 3, weights)
