"""What would make the host wait for a device, found on a machine that has none.

Tensors of torch's device `meta` have shapes and no values, so whoever asks one for a value, or
gives it some, is seen.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_aten: Any = torch.ops.aten
_BY_VALUE = {_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten.equal}
_COPIES = {_aten._to_copy, _aten.copy_}
_FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}
_TO_NUMBERS = {torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.numpy}


def _devices(values: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)}


class Waits(TorchFunctionMode):
    """Meanwhile notes uploads to `meta`, and values that are read from it or decide a shape.

    Attributes:
        seen: The operators, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._operators = _Operators(self.seen)

    def __enter__(self) -> Self:
        self._operators.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._operators.__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _TO_NUMBERS and "meta" in _devices(args):
            self.seen.append(func.__name__)
        result = func(*args, **kwargs)
        if func in _FROM_NUMBERS and "meta" in _devices(result):
            self.seen.append(func.__name__)
        return result


class _Operators(TorchDispatchMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet, given = func.overloadpacket, _devices((args, kwargs))
        if packet in _BY_VALUE and "meta" in given:
            self._seen.append(str(packet))
        masks = [x for x in tree_leaves(args[1:]) if isinstance(x, torch.Tensor)]
        if packet in {_aten.index, _aten.index_put_} and any(m.dtype == torch.bool for m in masks):
            self._seen.append(f"{packet} by a mask")
        to = {kwargs["device"].type} if kwargs.get("device") else set()
        if packet in _COPIES and len(given | to) > 1:
            self._seen.append(f"{packet} between devices")
        return func(*args, **kwargs)
