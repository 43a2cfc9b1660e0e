"""The order in which the tutorials are read."""

ORDER = (
    "plot_bias_benchmark.py",
    "plot_own_images.py",
    "plot_finetune_resnet.py",
    "plot_audit.py",
    "plot_zennit_composite.py",
    "plot_captum.py",
    "plot_own_rule.py",
)


class ReadingOrder:
    """Sort key of a gallery's files; those without a place come last, by name."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __call__(self, name: str) -> tuple[int, str]:
        return (ORDER.index(name) if name in ORDER else len(ORDER)), name
