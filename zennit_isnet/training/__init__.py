"""Training with PyTorch Lightning: a classifier with the heatmap loss, and its data. Needs the extra ``train``.

`ISNetClassifier` and `MaskedImages` are an ordinary `LightningModule` and `LightningDataModule`: pass them to your own
`Trainer`, or use the command ``zennit-isnet train``.
"""

from zennit_isnet.errors import import_optional

import_optional("lightning.pytorch", package="lightning", extra="train")

from zennit_isnet.training.classifier import ISNetClassifier, calibrate  # noqa: E402
from zennit_isnet.training.data import MaskedData, MaskedImages  # noqa: E402

__all__ = ["ISNetClassifier", "MaskedData", "MaskedImages", "calibrate"]
