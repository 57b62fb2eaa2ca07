"""Pictures that a command draws into files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..storage.destinations import check_file, write_file

__all__ = ["check_picture", "save_picture"]


def check_picture(option: str, path: str) -> None:
    """Refuse a picture that could not be drawn, before it is long awaited."""
    from ..plotting._common import import_pyplot

    kinds = import_pyplot().Figure().canvas.get_supported_filetypes()
    if Path(path).suffix[1:].lower() not in kinds:
        raise ValueError(f"{option} {path}: the ending must be one of {', '.join(sorted(kinds))}.")
    check_file(path, option)


def save_picture(display: Any, path: str) -> None:
    """Write what a display has drawn, and free it."""
    from ..plotting._common import import_pyplot

    data = io.BytesIO()
    display.figure_.savefig(data, format=Path(path).suffix[1:].lower())
    import_pyplot().close(display.figure_)
    write_file(path, data.getvalue())
