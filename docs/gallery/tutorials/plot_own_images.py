"""
Your own images and masks
=========================

From folders of files to a training step: the layout of the files, the checks, the transforms that keep image and mask
together, and what to look at before training.
"""

# %%
# How should the files be laid out?
# ---------------------------------
# One folder per class, and a parallel tree of masks with the same relative paths, black and white, of the same size.
# Here we write some digits on photographs as a stand-in for your files.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms.functional import to_pil_image

from zennit_isnet import ISNetRegularizer
from zennit_isnet.data import (
    BackgroundBias,
    MaskedImageFolder,
    evaluation_transform,
    training_transform,
)

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
names = {3: "three", 8: "eight"}
digits = BackgroundBias(split="validation", bias="texture", size=48)
for number, (image, mask, label) in enumerate(
    zip(digits.images, digits.masks, digits.labels.tolist(), strict=True)
):
    if label in names:
        for kind, pixels in (("images", image), ("masks", mask.float())):
            path = folder / kind / names[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(pixels).save(path)

for path in sorted(folder.glob("*/*/*.png"))[:3]:
    print(path.relative_to(folder))

# %%
# How do I read them?
# -------------------
# :class:`~zennit_isnet.data.MaskedImageFolder` checks immediately that each image has a mask and, when it reads a mask,
# that it has the size of its image and only two values. Errors name the file. Options set what happens to images
# without a mask and to masks with other values.
#
# The transform moves image and mask together. Its random crops always keep some foreground, because the heatmap loss is
# not defined without any.

transform = training_transform(size=40, mean=0.5, std=0.25, scale=(0.6, 1.0), flip=0.0)
data = MaskedImageFolder(folder / "images", folder / "masks", transform=transform)
print(len(data), "images of", data.classes)

# %%
# What should I look at before training?
# --------------------------------------
# The masks of a batch. An inverted mask, the mask of another image, or an augmentation that moved only one of the two
# would train the classifier to look at the wrong place, and no number would show it.

loader = DataLoader(
    data, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0)
)
images, masks, labels = next(iter(loader))
print(images.shape, images.dtype, masks.shape, masks.dtype)

figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for image, mask, label, (above, below) in zip(
    images, masks, labels.tolist(), axes.T, strict=False
):
    above.imshow((image * 0.25 + 0.5).permute(1, 2, 0).clamp(0, 1))
    above.set_title(data.classes[label], fontsize=9)
    below.imshow(mask[0], cmap="gray")
    above.set_axis_off()
    below.set_axis_off()

# %%
# A training step
# ---------------
# From here on the loop is the same as on every other page. For evaluation, use the deterministic transform. It also
# knows the range of possible pixel values, which the z^B rule would need.

preset = evaluation_transform(size=40, mean=0.5, std=0.25)
evaluation = MaskedImageFolder(folder / "images", folder / "masks", transform=preset)

torch.manual_seed(0)
model = resnet18(num_classes=len(data.classes))
regularizer = ISNetRegularizer(model)
print(
    regularizer.calibrate(DataLoader(evaluation, batch_size=32), progress=False)[
        "input"
    ]
)

optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
for step, (images, masks, labels) in zip(range(3), loader, strict=False):
    logits, penalty = regularizer(images, masks)
    loss = regularizer.balanced(
        torch.nn.functional.cross_entropy(logits, labels), penalty
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}, penalty {penalty.item():.3f}")

# %%
# This model is untrained, as the warning says, so its range and penalty mean nothing yet: :doc:`plot_finetune_resnet`
# starts from a trained one. :doc:`/how-to/masks` says where to get masks.
