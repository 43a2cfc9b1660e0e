"""
The bias benchmark, end to end
==============================

Digits on black, with a white patch at the border whose position names the class. We train a classifier twice on the
same images: without and with the heatmap loss. Three kinds of test background show what each has learned.
"""

# %%
# The data
# --------
# The patch never lies under the mask. On biased test images it names the right class, on confounding ones a wrong
# class, and on unbiased ones it says nothing.

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from zennit_isnet import ISNetRegularizer, Stochastic
from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.functional import background_share
from zennit_isnet.plotting import heatmap_panel, share_histogram

digits = load_digits()
training = BackgroundBias(split="train", source=digits)
validation = BackgroundBias(split="validation", source=digits)
tests = {
    background: BackgroundBias(split="test", background=background, source=digits)
    for background in ("biased", "unbiased", "confounding")
}
one_of_each = [
    int((tests["biased"].labels == digit).nonzero()[0]) for digit in range(8)
]
for name, test in tests.items():
    print(
        f"{name:12} labels {test.labels[one_of_each].tolist()}   patches {test.cues[one_of_each].tolist()}"
    )

# %%
# The same digits on the three backgrounds. The patch moves; the mask is always the digit.

figure, axes = plt.subplots(len(tests), 8, figsize=(8, 3.6), layout="constrained")
for row, (name, test) in zip(axes, tests.items(), strict=True):
    row[0].set_title(name, loc="left", fontsize=9)
    for axis, image in zip(row, test.images[one_of_each], strict=True):
        axis.imshow(image.permute(1, 2, 0))
        axis.set_axis_off()

# %%
# What changes in the training loop?
# ----------------------------------
# The call of the regularizer replaces ``model(images)``, and ``balanced`` adds the two losses. Everything else is
# ordinary: a small network, SGD with one cycle of the learning rate, gradients clipped to norm 1.


def block(channels_in, channels_out):
    convolution = nn.Conv2d(
        channels_in, channels_out, 3, stride=2, padding=1, bias=False
    )
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


def make_model():
    return nn.Sequential(
        *block(3, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Linear(1024, 10)
    )


def train(model, epochs, regularizer=None):
    generator = torch.Generator().manual_seed(0)
    batches = DataLoader(
        training, batch_size=64, shuffle=True, drop_last=True, generator=generator
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=epochs * len(batches)
    )
    model.train()
    for _ in range(epochs):
        for images, masks, labels in batches:
            if regularizer is None:
                loss = F.cross_entropy(model(images), labels)
            else:
                logits, penalty = regularizer(images, masks)
                loss = regularizer.balanced(F.cross_entropy(logits, labels), penalty)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracies(model):
    model.eval()
    return {
        name: (model(test.images).argmax(1) == test.labels).float().mean().item()
        for name, test in tests.items()
    }


# %%
# Without the heatmap loss
# ------------------------
# The classifier is nearly perfect on images like its training images, and useless if the patch names another class.

torch.manual_seed(0)
plain = make_model()
train(plain, epochs=3)
plain_accuracies = accuracies(plain)
print("plain", {name: f"{value:.1%}" for name, value in plain_accuracies.items()})

# %%
# With the heatmap loss
# ---------------------
# The loss needs the natural range of the relevance. We measure it on the plain classifier, then train a fresh network
# with the penalty from the first step. The explained quantity is the default, Stochastic: one logit, drawn for each
# image. We pass a generator only so that this page gives the same result at every build.

formulation = Stochastic(torch.Generator().manual_seed(0))
ranges = ISNetRegularizer(plain, formulation=formulation).calibrate(
    validation.images.split(125), progress=False
)
for layer, measured in ranges.items():
    print(f"{layer:14} {measured.c1:.2f} to {measured.c2:.2f}")

model = make_model()
regularizer = ISNetRegularizer(model, formulation=formulation)
regularizer.ranges = ranges
train(model, epochs=6, regularizer=regularizer)
isnet_accuracies = accuracies(model)
print("ISNet", {name: f"{value:.1%}" for name, value in isnet_accuracies.items()})

# %%
# Where do they look?
# -------------------
# Heatmaps of the true class on confounding backgrounds. Red is evidence for the class, blue against it.

test = tests["confounding"]
images, masks, labels = (
    test.images[one_of_each],
    test.masks[one_of_each],
    test.labels[one_of_each],
)
explain = {"plain": ISNetRegularizer(plain).heatmap, "ISNet": regularizer.heatmap}
heatmap_panel(
    images,
    masks,
    {name: heatmap(images, labels)[:, 0] for name, heatmap in explain.items()},
    titles=[f"digit {label}" for label in labels.tolist()],
)

# %%
# The share of relevance on the background, over the first 250 test images.

biased = tests["biased"]
some, some_masks, some_labels = (
    biased.images[:250],
    biased.masks[:250],
    biased.labels[:250],
)
shares = {
    name: background_share(
        heatmap(some, some_labels)[:, 0], some_masks, undefined="skip"
    )
    for name, heatmap in explain.items()
}
share_histogram({name: share[share.isfinite()] for name, share in shares.items()})

# %%
# Does the classifier still use the background?
# ---------------------------------------------
# Heatmaps cannot tell. **The evidence is the accuracy on changed backgrounds**: a classifier that ignores the
# background has the same accuracy on all three test sets.

for name, result in (("plain", plain_accuracies), ("ISNet", isnet_accuracies)):
    print(
        f"{name:6} biased minus confounding: {100 * (result['biased'] - result['confounding']):5.1f} points"
    )

# %%
# The network and the training are small, so the accuracy is lower than after a longer training. ``make demo`` trains on
# the same data and on photographs. If a difference remains, :doc:`/how-to/choosing` says what to do.
