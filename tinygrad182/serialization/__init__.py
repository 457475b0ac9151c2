"""Files of models: ``tg.save`` and ``tg.load`` in :mod:`.checkpoints`, and the two formats of files."""

from .checkpoints import Checkpoint, load, save
from .safetensors_files import read_arrays, write_arrays

__all__ = ["Checkpoint", "load", "read_arrays", "save", "write_arrays"]
