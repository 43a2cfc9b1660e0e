"""
Audit a classifier
==================

Does a classifier rely on the background? :func:`zennit_isnet.audit.audit` tests a trained model on some images with
masks, before you change anything. It shows where the relevance lies, but bases its verdict on the accuracy with the
backgrounds of other images.
"""

# %%
# A suspect
# ---------
# We train a classifier without the penalty, on digits with a patch whose position names the class.

import torch
from torch import nn
from torch.utils.data import Subset

from zennit_isnet.audit import audit
from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.plotting import share_by_class

digits = load_digits()


def block(channels_in, channels_out):
    convolution = nn.Conv2d(
        channels_in, channels_out, 3, stride=2, padding=1, bias=False
    )
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


def trained_on(background):
    torch.manual_seed(0)
    model = nn.Sequential(
        *block(3, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(1024, 10)
    )
    data = BackgroundBias(background=background, source=digits)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for chosen in torch.randperm(len(data)).split(64):
            loss = nn.functional.cross_entropy(
                model(data.images[chosen]), data.labels[chosen]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


suspect = trained_on("biased")

# %%
# How do I audit it?
# ------------------
# Use images that it was not trained on, with their own biased backgrounds, as they would come from the same source. The
# accuracy on these images would not reveal the problem.

images = Subset(BackgroundBias(split="test", source=digits), range(300))
report = audit(
    suspect, images, classes=[str(digit) for digit in range(10)], progress=False
)
print(f"{report.verdict.outcome}: {report.verdict.reason}")

# %%
# The whole report in Markdown. ``report.to_html()`` gives a page with images, ``report.to_json()`` the machine-readable
# form.

print(report.to_markdown())

# %%
# The share of relevance on the background, by class. The diamonds are the shares of uniform relevance.

share_by_class(
    [image.share for image in report.images],
    [image.label for image in report.images],
    report.classes,
    expected=[image.area for image in report.images],
)

# %%
# What does a good classifier look like?
# --------------------------------------
# This one was trained on images whose patch says nothing about the class.

innocent = audit(
    trained_on("unbiased"),
    images,
    classes=[str(digit) for digit in range(10)],
    progress=False,
)
print(f"{innocent.verdict.outcome}: {innocent.verdict.reason}")

# %%
# How do I audit my own model?
# ----------------------------
# The command ``zennit-isnet audit`` (extra ``audit``) writes the same report for a folder of images and one of masks:
#
# .. code-block:: bash
#
#     zennit-isnet audit resnet50 test-photos/ test-masks/ --checkpoint resnet50.pth --imagenet
#     zennit-isnet audit my_models:make scans.csv --split split=test --grey --size 256
#
# An audit needs:
#
# - Images that the model was not trained on, with backgrounds like those it was trained on. If the backgrounds do not
#   correlate with the classes, a swap costs no accuracy whatever the model uses, and *no reliance found* means nothing.
# - A few hundred images, equally many per class. With fewer than about 40 no model can be cleared, because chance could
#   hide a loss above the tolerance.
# - The whole image, if a marker in a corner may be the shortcut. By default images are cropped to their centre;
#   ``--fit whole`` keeps the corners. A checkpoint of ``zennit-isnet train`` brings the setting of its training.
# - Masks that contain the whole object. Parts outside the mask count as background.
#
# .. _checkpoints:
#
# Which models can the command read?
# ----------------------------------
# ``zennit-isnet audit`` and ``explain`` take the model as a name and a file of weights:
#
# ==================================  ===============================  =====================================
# MODEL                               ``--checkpoint``                 the model is
# ==================================  ===============================  =====================================
# ``results/train/best.ckpt``         not needed                       the one of ``zennit-isnet train``
# ``resnet50``                        ``resnet50.pth``                 torchvision's, with your weights
# ``timm:convnextv2_nano``            ``convnext.pth``                 timm's, with your weights (extra ``timm``)
# ``my_models:make``                  ``mine.pth``, or none            what your function returns
# ==================================  ===============================  =====================================
#
# - **A checkpoint of** ``zennit-isnet train`` is a Lightning checkpoint that also holds the architecture, the classes
#   in the order of the logits, the size, the normalisation, the number of channels and the crop. Nothing else is
#   needed. ``zennit-isnet test`` reads ``best.ckpt`` and ``config.yaml`` of such a run, and nothing else.
# - **A model that was trained elsewhere** needs its weights in a file, written by
#   ``torch.save(model.state_dict(), "resnet50.pth")``. A dictionary that holds the state dict under ``model``,
#   ``state_dict`` or ``model_state_dict``, as many training scripts and Lightning write it, is read too. The prefixes
#   ``module.``, ``_orig_mod.`` and ``model.`` of DistributedDataParallel, ``torch.compile`` and Lightning are removed.
#   The weights must fit exactly, including the number of classes. A pickled model (``torch.save(model, …)``) is
#   refused, because reading it would run code.
# - **Your own architecture** comes from a function in a Python file of the current folder. It is called with
#   ``num_classes=…`` if it accepts that argument. Without ``--checkpoint`` it must load the weights itself.
# - **The command cannot know how the images were prepared.** Except for a checkpoint of ``zennit-isnet train``, say so:
#   ``--imagenet`` or ``--mean`` and ``--std``, ``--size``, ``--fit``, ``--grey``, and ``--classes`` if the order of the
#   logits is not that of the sorted class folders.
#
# :func:`~zennit_isnet.architectures.make_model` does the same in Python, for a model by name or from a function. Here
# is the suspect, saved and read again:

import sys
import tempfile
from pathlib import Path

from zennit_isnet.architectures import make_model

SOURCE = """
from torch import nn


def make(num_classes):
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, num_classes))
"""

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "my_models.py").write_text(SOURCE)
    torch.save(suspect.state_dict(), Path(folder, "mine.pth"))
    sys.path.append(folder)
    again = make_model("my_models:make", classes=10, weights=f"{folder}/mine.pth")

example = images[0][0].unsqueeze(0)
print(torch.equal(suspect.eval()(example), again.eval()(example)))

# %%
# Several labels
# --------------
# A multi-label model is audited one label at a time, by the logit of that label alone:

several = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 14))  # one logit per label
label = nn.Linear(14, 1, bias=False)
with torch.no_grad():
    label.weight[:] = torch.eye(14)[5]
of_one_label = nn.Sequential(several, label)  # audit it on images with labels 0 and 1
