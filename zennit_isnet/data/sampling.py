"""Everything random about the benchmark, drawn once for all digits of a source."""

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Generator, Tensor

from zennit_isnet.data.options import NUM_CLASSES, Background, Split

VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2


def stratified_split(labels: Tensor, generator: Generator) -> dict[Split, Tensor]:
    """Divide digits into 70 % training, 10 % validation and 20 % test, within each class.

    Parameters
    ----------
    labels : torch.Tensor
        The class of each digit, shape ``(n,)``, dtype int64.
    generator : torch.Generator
        Source of the shuffle, on the CPU.

    Returns
    -------
    dict of str to torch.Tensor
        For each split the indices of its digits, dtype int64, in shuffled order so that no part of a split is a single
        class. The three are disjoint and together hold every digit.

    Examples
    --------
    >>> labels = torch.arange(10).repeat(100)
    >>> splits = stratified_split(labels, torch.Generator().manual_seed(0))
    >>> {name: len(indices) for name, indices in splits.items()}
    {'train': 700, 'validation': 100, 'test': 200}
    """
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    names: tuple[Split, ...] = get_args(Split)
    part = torch.full_like(shuffled, names.index("train"))
    for label in shuffled.unique():
        members = (shuffled == label).nonzero().squeeze(1)
        validation, test = round(VALIDATION_SHARE * len(members)), round(TEST_SHARE * len(members))
        part[members[:validation]] = names.index("validation")
        part[members[validation : validation + test]] = names.index("test")
    return {name: order[part == position] for position, name in enumerate(names)}


@dataclass(frozen=True)
class Draws:
    """All random numbers of the benchmark, one row for each digit of the source.

    They depend on the seed and on the source's labels alone, so a digit has the same split and crop whatever its
    background is.

    Parameters
    ----------
    splits : dict of str to torch.Tensor
        The indices of each split's digits (`stratified_split`).
    independent : torch.Tensor
        A class drawn uniformly, whatever the label is, shape ``(n,)``, dtype int64.
    wrong : torch.Tensor
        A class drawn uniformly from the nine that are not the label, shape ``(n,)``, dtype int64.
    positions : torch.Tensor
        Fractions in [0, 1) that place a texture's cut, shape ``(n, 2)``, dtype float32.
    """

    splits: dict[Split, Tensor]
    independent: Tensor
    wrong: Tensor
    positions: Tensor

    @classmethod
    def from_seed(cls, labels: Tensor, seed: int) -> "Draws":
        """Draw everything from one seed, without touching PyTorch's global generator.

        Parameters
        ----------
        labels : torch.Tensor
            The class of each digit, 0 to 9, shape ``(n,)``, dtype int64.
        seed : int
            Any seed that `torch.Generator.manual_seed` accepts.

        Returns
        -------
        Draws
            The same for the same arguments.

        Examples
        --------
        >>> labels = torch.arange(10).repeat(100)
        >>> draws = Draws.from_seed(labels, seed=0)
        >>> bool((draws.wrong == labels).any())
        False
        """
        generator = Generator().manual_seed(seed)
        count = len(labels)
        return cls(
            splits=stratified_split(labels, generator),
            independent=torch.randint(NUM_CLASSES, (count,), generator=generator),
            wrong=(labels + torch.randint(1, NUM_CLASSES, (count,), generator=generator)) % NUM_CLASSES,
            positions=torch.rand(count, 2, generator=generator),
        )

    def cues(self, labels: Tensor, background: Background) -> Tensor:
        """Say which class each digit's background suggests.

        Parameters
        ----------
        labels : torch.Tensor
            The class of each digit, shape ``(n,)``, dtype int64.
        background : {"biased", "unbiased", "confounding", "none"}
            The label itself, a class independent of it, a wrong class, or no cue at all.

        Returns
        -------
        torch.Tensor
            The cues, 0 to 9, or -1 where there is none, shape ``(n,)``, dtype int64.

        Examples
        --------
        >>> labels = torch.arange(10)
        >>> draws = Draws.from_seed(labels, seed=0)
        >>> draws.cues(labels, "biased").tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        by_background: dict[Background, Tensor] = {
            "biased": labels,
            "unbiased": self.independent,
            "confounding": self.wrong,
            "none": torch.full_like(labels, -1),
        }
        return by_background[background]
