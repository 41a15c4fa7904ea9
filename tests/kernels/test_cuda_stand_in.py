"""The stand-in has no member that the real cuda.core has not: where that is installed, they are compared."""

from __future__ import annotations

import importlib
import inspect

import cuda_on_cpu as on_cpu
import pytest

# What only tests use.
OWN = {
    "Buffer": {"view", "__dlpack__"},
    "Stream": {"enqueue", "run", "end_capture"},
    "GraphBuilder": {"enqueue", "_destroy"},
    "Device": {"check_current"},
    "Event": set(),
    "Graph": set(),
    "StridedMemoryView": set(),
}
HOMES = {"GraphBuilder": "cuda.core.graph", "Graph": "cuda.core.graph", "StridedMemoryView": "cuda.core.utils"}
ATTRIBUTES = {
    "Buffer": {"handle", "size", "owner"},
    "Stream": {"handle"},
    "GraphBuilder": {"stream"},
    "Device": {"name", "compute_capability", "device_id", "properties", "memory_resource"},
    "StridedMemoryView": {"ptr", "shape", "strides", "dtype", "device_id", "is_device_accessible"},
}


@pytest.fixture(scope="module")
def real():
    pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    return {name: getattr(importlib.import_module(HOMES.get(name, "cuda.core")), name) for name in OWN}


@pytest.mark.parametrize("name", sorted(OWN))
def test_members(real, name):
    missing = ATTRIBUTES.get(name, set()) - set(dir(real[name]))
    for member, found in vars(getattr(on_cpu, name)).items():
        function = getattr(found, "__func__", found)
        if not callable(function) or member.startswith("__init__") or member in OWN[name] | {"__del__"}:
            continue
        wanted = getattr(real[name], member, None)
        if wanted is None:
            missing.add(member)
            continue
        named = {
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty)
        }
        missing |= {f"{member}({p})" for p in named - set(inspect.signature(wanted).parameters)}
    assert not missing


def test_functions_and_options(real):
    core = importlib.import_module("cuda.core")
    assert core.EventOptions(blocking_sync=True).blocking_sync is True
    assert core.LaunchConfig(grid=(3, 2), block=256, shmem_size=100, is_cooperative=False).shmem_size == 100
    for resource in (core.LegacyPinnedMemoryResource, core.DeviceMemoryResource):
        assert "stream" in inspect.signature(resource.allocate).parameters
    assert "thread_local" in real["GraphBuilder"].begin_building.__doc__


def test_functions_of_the_driver(real):
    assert real
    driver = importlib.import_module("cuda.bindings.driver")
    given = on_cpu.Core(None).driver
    for name, value in vars(given).items():
        if name.startswith("__"):
            continue
        assert hasattr(driver, name), name
        for member in vars(value) if hasattr(value, "__dict__") and not callable(value) else ():
            assert int(getattr(getattr(driver, name), member)) == getattr(value, member), member
