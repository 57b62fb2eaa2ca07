"""Containers of modules that say what they hold; when the code runs they are torch's own.

In torch's annotations a module of a container is any module, and what it holds in turn is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

__all__ = ["Layers", "ModuleListOf"]

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Generic, TypeVar, overload

    M = TypeVar("M", bound=nn.Module)

    class ModuleListOf(nn.ModuleList, Generic[M]):
        """Modules of one type."""

        def __init__(self, modules: Iterable[M] = ()) -> None: ...
        def __iter__(self) -> Iterator[M]: ...
        @overload
        def __getitem__(self, idx: slice) -> ModuleListOf[M]: ...
        @overload
        def __getitem__(self, idx: int) -> M: ...
        def __getitem__(self, idx: int | slice) -> M | ModuleListOf[M]: ...

    class Layers(nn.Sequential):
        """Layers of different types; which is where, only those know who built them."""

        def __iter__(self) -> Iterator[Any]: ...
        def __getitem__(self, idx: int | slice) -> Any: ...

else:
    Layers, ModuleListOf = nn.Sequential, nn.ModuleList
