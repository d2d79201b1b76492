"""Where somebody else's quantizer runs: quietly, in a scratch folder, its errors made edgetl's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edgetl.errors import EngineError, missing_extra
from edgetl.files import scratch_folder
from edgetl.spec import Recipe
from edgetl.telemetry import quiet


@contextlib.contextmanager
def quantizing(recipe: Recipe, quantizer: str, engine: str) -> Iterator[Path]:
    """A folder for the files of a `quantizer`, which makes INT8 for an `engine` (names to show).

    Raises EngineMissingError when its packages are missing, EngineError when it fails, StorageError
    when the folder has no room.
    """
    with quiet(), scratch_folder() as folder:
        try:
            yield folder
        except ImportError as error:
            raise missing_extra("export", f"INT8 for {engine}") from error
        except Exception as error:  # quantizers raise many unrelated types
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a full disk, which no other recipe would mend
            raise EngineError(
                f"{quantizer} cannot quantize the model by recipe '{recipe.name}': {error}",
                fix="use another recipe, or other calibration images.",
            ) from error
