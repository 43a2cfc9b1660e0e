"""
Fine-tune a trained ResNet
==========================

The usual case in practice: you have a trained network that may rely on the background. Test it, calibrate on it, and
continue training it with the heatmap loss.

So that this page can be built offline, it first trains a small ResNet itself, on digits whose background names the
class. With a pretrained network, replace that by two lines::

    model = torchvision.models.resnet18(weights="IMAGENET1K_V1")
    model.fc = torch.nn.Linear(model.fc.in_features, len(classes))
"""

# %%
# A trained network
# -----------------
# torchvision's ResNet with one block per stage.

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

from zennit_isnet import ISNetRegularizer, Stochastic
from zennit_isnet.data import BackgroundBias, load_digits
from zennit_isnet.plotting import heatmap_panel

digits = load_digits()
training = BackgroundBias(source=digits)
tests = {
    name: BackgroundBias(split="test", background=name, source=digits)
    for name in ("biased", "unbiased", "confounding")
}
COUNT = 1000


def train(model, epochs, regularizer=None):
    optimizer = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.05, total_steps=epochs * COUNT // 50
    )
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(COUNT, generator=generator).split(50):
            images, masks, labels = (
                training.images[chosen],
                training.masks[chosen],
                training.labels[chosen],
            )
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
    correct = {
        name: (model(test.images[:500]).argmax(1) == test.labels[:500])
        for name, test in tests.items()
    }
    return {
        name: f"{right.float().mean().item():.0%}" for name, right in correct.items()
    }


torch.manual_seed(0)
model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
train(model, epochs=2)

# %%
# Does it rely on the background?
# -------------------------------
# The accuracy on biased images, which are like the training images, looks fine. The other two show what the network
# uses. :doc:`plot_audit` makes such tests from the masks of your own images.

print("before", accuracies(model))
before = copy.deepcopy(model)

# %%
# Calibrate and continue training
# -------------------------------
# The network is trained, so its relevance has its natural range and can be measured on the network itself. With a new
# last layer it would first need a few epochs without the penalty.

regularizer = ISNetRegularizer(
    model, formulation=Stochastic(torch.Generator().manual_seed(0))
)
print(regularizer.calibrate(training.images[:300].split(50), progress=False)["input"])
train(model, epochs=3, regularizer=regularizer)
print("after ", accuracies(model))
norms = regularizer.balance.norms
print(
    f"norms of the gradients: cross-entropy {norms.classification:.2f}, penalty {norms.penalty:.2f}"
)
print(f"factor of the penalty: {regularizer.balance.factor:.2f}")

# %%
# So short a training can only begin to change the network; the direction is what matters here. Penalising from the
# start of a training works faster than after it: :doc:`plot_bias_benchmark` trains a fresh network with the penalty
# from the first step. Do that if you can.

test = tests["confounding"]
images, masks, labels = test.images[:8], test.masks[:8], test.labels[:8]
heatmap_panel(
    images,
    masks,
    {
        "before": ISNetRegularizer(before).heatmap(images, labels)[:, 0],
        "after": regularizer.heatmap(images, labels)[:, 0],
    },
    titles=[f"digit {label}" for label in labels.tolist()],
)

# %%
# What should I watch for with my own data?
# -----------------------------------------
# - Use SGD, the learning rate of fine-tuning, and gradients clipped to norm 1. On a deep pretrained network the
#   gradient of the penalty can be many times the gradient of the cross-entropy; ``balanced`` keeps it within 5 times.
# - Normalise images as the weights expect. ``weights.transforms()`` does not know about masks, so use
#   :func:`zennit_isnet.data.training_transform` with the same mean and standard deviation. Black borders carry no
#   relevance, whatever the normalisation.
# - BatchNorm in training mode is fine: the relevance uses the statistics of the batch.
# - Train all layers, including the early ones. With a frozen backbone the heatmap loss can change little.
# - 1000 classes cost the same as ten.
