"""One loader of API models for all AWS clients of a test process: parsing them is what takes time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import botocore
from botocore.loaders import Loader


class _Kept(dict[Any, Any]):
    """A client of ours lets go of what its loader has read, which here is everybody's."""

    def clear(self) -> None:
        pass


LOADER = Loader(extra_search_paths=[str(Path(botocore.__file__).parent / "data")])
LOADER._cache = _Kept()  # type: ignore[attr-defined]


def one_loader(search_path_string: str | None = None) -> Loader:
    """In place of botocore.loaders.create_loader."""
    return LOADER
