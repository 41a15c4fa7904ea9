"""The module `tensorrt` of a version."""

from __future__ import annotations

import importlib.machinery
import types

from .base import Sealed
from .build import build_types
from .enums import ALIASES, Number, enumerations
from .network import network_types
from .run import run_types
from .world import World

VERSIONS = ("10.3.0", "10.16.0", "11.0.0")
"""JetPack 6, JetPack 7.2, and servers."""


class Severity(Number):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def tensorrt_module(world: World) -> types.ModuleType:
    """A fresh module, to be put into `sys.modules`."""
    module = types.ModuleType("tensorrt")
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    module.__version__ = world.version
    enums = enumerations(world.numbers)

    class ILogger(Sealed):
        __slots__ = ("__dict__",)  # made to be subclassed in Python

        def __init__(self):
            self._ = True

    ILogger.Severity = Severity
    for name, value in Severity.__members__.items():
        setattr(ILogger, name, value)

    class Logger(ILogger):
        def __init__(self, min_severity=Severity.WARNING):
            ILogger.__init__(self)
            self.min_severity = min_severity

        def log(self, severity, msg):
            if severity.value <= self.min_severity.value:
                print(f"[TRT] {msg}")

    network = network_types(world, enums, Severity.ERROR)
    members = {
        **enums, **network, "ILogger": ILogger, "Logger": Logger,
        **build_types(world, enums, ILogger, network["INetworkDefinition"]), **run_types(world, enums, ILogger),
    }  # fmt: skip
    for name, value in members.items():
        setattr(module, name, value)
    for name, member in ALIASES.items():
        if member in enums["DataType"].__members__:
            setattr(module, name, enums["DataType"][member])
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    return module
