"""The formulation that explains one drawn logit."""

from collections.abc import Mapping

import torch
from torch import Tensor

from zennit_isnet.checks import check_generator
from zennit_isnet.formulations.base import Formulation, one_hot


class Stochastic(Formulation):
    """One logit, drawn for each image: the highest with probability 1/2, else any other alike; one heatmap per image.

    Unlike `Selective` it needs no softmax, so it suits multi-label models and models with one logit (which is then
    always the one explained). Draws are made on the CPU, so they do not depend on the device of the model.

    Parameters
    ----------
    generator : torch.Generator, optional
        Source of the draws, on the CPU. Pass a seeded one for runs that can be repeated; by default PyTorch's global
        generator is used.

    Raises
    ------
    InvalidTypeError
        If `generator` is not a `torch.Generator`.
    InvalidValueError
        If `generator` is not on the CPU.

    References
    ----------
    .. [1] Bassi, P. R. A. S., Decherchi, S., Cavalli, A. "Faster ISNet for background bias mitigation on deep neural
       networks". IEEE Access 12, 155151 (2024). arXiv:2401.08409.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet.formulations import Stochastic
    >>> formulation = Stochastic(torch.Generator().manual_seed(0))
    >>> formulation(torch.randn(8, 10)).sum(dim=-1).flatten()
    tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        check_generator(generator)
        self.generator = generator

    def seeds(self, logits: Tensor) -> Tensor:
        """Return the seeds of shape (N, 1, C)."""
        images, classes = logits.shape
        chosen = logits.argmax(dim=1)
        if classes > 1:
            # Steps from the highest class to the chosen one, around the circle of classes.
            others = torch.randint(1, classes, (images,), generator=self.generator)
            stay = torch.rand(images, generator=self.generator) < 0.5
            chosen = (chosen + others.masked_fill(stay, 0).to(logits.device)) % classes
        return one_hot(chosen.unsqueeze(1), logits).unsqueeze(1)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the generator; empty for the global generator, which belongs to the user."""
        return {} if self.generator is None else {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of the generator, so that the draws go on as they would have.

        Parameters
        ----------
        state : mapping of str to Tensor
            From the `state_dict` of a formulation that had a generator if and only if this one has.

        Raises
        ------
        InvalidValueError
            If `state` has other keys than this formulation's own state.
        """
        super().load_state_dict(state)
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())

    def __repr__(self) -> str:
        seed = None if self.generator is None else self.generator.initial_seed()
        return "Stochastic()" if seed is None else f"Stochastic(generator=<CPU generator, initial seed {seed}>)"
