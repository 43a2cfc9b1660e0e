"""What all metrics have in common."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from zennit_isnet.checks import check_choice
from zennit_isnet.errors import InvalidTypeError, InvalidValueError, import_optional
from zennit_isnet.functional.measures import Undefined

import_optional("torchmetrics", package="torchmetrics", extra="metrics")

from torchmetrics import Metric  # noqa: E402


class SeparateMetric(Metric):
    """A metric that `MetricCollection` never takes for another one, and that an error leaves as it was.

    The collection shares states among metrics whose states are equal after the first batch. Here equal numbers say
    nothing: two pointing games can agree on one batch. A constant state made of the settings tells metrics apart.

    Parameters
    ----------
    *settings : object
        What the value depends on; their ``repr`` counts.
    undefined : {"error", "skip"}
        What happens to undefined values.
    **kwargs
        Options of `torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, *settings: object, undefined: Undefined, **kwargs: Any) -> None:
        check_choice("undefined", undefined, Undefined)
        super().__init__(**kwargs)
        self.undefined: Undefined = undefined
        fingerprint = repr((type(self).__name__, *settings, undefined)).encode()
        self.add_state("settings", torch.tensor(list(fingerprint)), dist_reduce_fx="max")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Take a batch into account as `update` does, and return its own value as `compute` does for all batches.

        After an error the metric is as it was before.
        """
        before = dict(self.__dict__)
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            # torchmetrics empties the states for the value of the batch, and after an error leaves them empty
            self.__dict__.update(before)
            raise

    @contextmanager
    def sync_context(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hold the states of all processes inside of the block; after it, also after an error, one's own again."""
        with super().sync_context(*args, **kwargs):
            try:
                yield
            except BaseException:
                if self._is_synced:
                    self.unsync()
                raise

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what a metric of the same kind and settings has seen, for instance in another program.

        Parameters
        ----------
        incoming_state : Metric or dict
            The other metric, or its `metric_state`.

        Raises
        ------
        InvalidTypeError
            If it is neither a metric nor a dict.
        InvalidValueError
            If it is of a metric with other settings.
        """
        if not isinstance(incoming_state, dict | Metric):
            kind = type(incoming_state).__name__
            raise InvalidTypeError(f"incoming_state must be a metric or the metric_state of one; got {kind}")
        incoming = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        own, other = (_text(state.get("settings", ())) for state in (self.metric_state, incoming))
        if own != other:
            raise InvalidValueError(f"only metrics with the settings {own} can be merged; got {other or 'none'}")
        super().merge_state(incoming)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw a value, or several, as all metrics of torchmetrics do; needs matplotlib.

        Parameters
        ----------
        val : Tensor, dict, or sequence of them, optional
            What `compute` or calls returned; by default that of `compute`.
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        figure, axes
        """
        return self._plot(val, ax)


def _text(settings: Iterable[Any]) -> str:
    return bytes(int(letter) for letter in settings).decode()
