"""The parts of ``examples/train.py``, one concept each."""
