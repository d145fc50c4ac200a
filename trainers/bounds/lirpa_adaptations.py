"""Makes the auto_LiRPA release on the package index (0.3, of 2022) run on a current torch.

Each adaptation is applied only where it is needed: newer releases need none. What changes outside
auto_LiRPA is undone as soon as the import, or the conversion of a network, is over.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Inside, `import auto_LiRPA` works and leaves logging, warnings and the JIT as they were."""
    with _neutral_import(), _numpy_arraysetops(), _opset_setter():
        yield


@contextlib.contextmanager
def subscriptable_nodes() -> Iterator[None]:
    """Give back `node[attribute]` to TorchScript graph nodes, which release 0.3 reads them by."""
    node_type: Any = torch._C.Node
    if hasattr(node_type, "__getitem__"):
        yield
        return
    node_type.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)
    try:
        yield
    finally:
        del node_type.__getitem__


@contextlib.contextmanager
def _neutral_import() -> Iterator[None]:
    """Undo what the import does to logging, warnings and the JIT; never build CUDA kernels."""
    root, extension = logging.getLogger(), logging.getLogger("torch.utils.cpp_extension")
    handlers, level, extension_level = root.handlers[:], root.level, extension.level
    build_flag = os.environ.pop("AUTOLIRPA_ENABLE_CUDA_BUILD", None)
    executor = torch._C._jit_set_profiling_executor(True)
    profiling = torch._C._jit_set_profiling_mode(True)
    extension.setLevel(logging.ERROR)
    try:
        # Recorded, because the import replaces the filters.
        with warnings.catch_warnings(record=True):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        extension.setLevel(extension_level)
        torch._C._jit_set_profiling_executor(executor)
        torch._C._jit_set_profiling_mode(profiling)
        if build_flag is not None:
            os.environ["AUTOLIRPA_ENABLE_CUDA_BUILD"] = build_flag


@contextlib.contextmanager
def _numpy_arraysetops() -> Iterator[None]:
    """Release 0.3 imports `isin` from a numpy module that is gone."""
    name = "numpy.lib.arraysetops"
    if hasattr(np.lib, "arraysetops") or name in sys.modules:
        yield
        return
    module: Any = types.ModuleType(name)
    module.isin = np.isin
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _opset_setter() -> Iterator[None]:
    """Release 0.3 imports a private setter of torch.onnx that is gone."""
    helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    if hasattr(helper, "_set_opset_version"):
        yield
        return
    package = "torch.onnx._internal.torchscript_exporter._globals"
    exporter_globals: Any = importlib.import_module(package).GLOBALS

    def set_opset_version(version: int) -> None:
        exporter_globals.export_onnx_opset_version = version

    helper._set_opset_version = set_opset_version
    try:
        yield
    finally:
        del helper._set_opset_version


def accept_remove_duplicate(bounded_module: Any) -> None:
    """Torch's named_parameters passes an argument that release 0.3 does not know."""
    original = bounded_module._named_members
    if "remove_duplicate" in inspect.signature(original).parameters:
        return

    def named_members(
        self: Any, get_members_fn: Any, prefix: str = "", recurse: bool = True, **_: Any
    ) -> Any:
        # Members are unique by identity there already, as remove_duplicate=True asks for.
        return original(self, get_members_fn, prefix, recurse)

    bounded_module._named_members = named_members
