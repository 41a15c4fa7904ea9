"""Builder, configuration, profiles, timing cache and progress monitor."""

from __future__ import annotations

import json
import threading
import types

from .base import Sealed, host_memory, property_of
from .plan import plan_bytes

_CACHE = b"TIMINGSTAND"


def build_types(world, enums, ILogger, network_kind):
    """Everything up to a serialised network."""
    old = world.numbers < (11, 0)

    class IOptimizationProfile(Sealed):
        def set_shape(self, input, min, opt, max):
            self._.shapes[input] = (tuple(min), tuple(opt), tuple(max))

        def get_shape(self, input):
            return list(self._.shapes[input])

        def __bool__(self):
            return all(
                len(low) == len(mid) == len(high)
                and all(0 <= a <= b <= c for a, b, c in zip(low, mid, high, strict=True))
                for low, mid, high in self._.shapes.values()
            )

    class ITimingCache(Sealed):
        def serialize(self):
            head = json.dumps([world.version, world.gpu]).encode()
            return host_memory(_CACHE + head + b"\n" + "\n".join(sorted(self._.entries)).encode())

        def combine(self, input_cache, ignore_mismatch):
            if not isinstance(input_cache, ITimingCache):
                raise TypeError("combine: incompatible function arguments")
            self._.entries |= input_cache._.entries
            return True

    class IProgressMonitor(Sealed):
        __slots__ = ("__dict__",)  # made to be subclassed in Python

        def __init__(self):
            self._ = True

    class IBuilderConfig(Sealed):
        builder_optimization_level = property_of("level", int)
        profiling_verbosity = property_of("verbosity", enums["ProfilingVerbosity"])
        hardware_compatibility_level = property_of("hardware", enums["HardwareCompatibilityLevel"])
        default_device_type = property_of("device", enums["DeviceType"])
        DLA_core = property_of("dla", int)
        progress_monitor = property_of("monitor", (IProgressMonitor, type(None)))
        num_optimization_profiles = property(lambda self: len(self._.profiles))
        if old:
            int8_calibrator = property_of("calibrator")

        def set_memory_pool_limit(self, pool, pool_size):
            self._.pools[enums["MemoryPoolType"](pool)] = int(pool_size)

        def get_memory_pool_limit(self, pool):
            return self._.pools.get(pool, world.memory if pool.name == "WORKSPACE" else 0)

        def set_flag(self, flag):
            self._.flags.add(enums["BuilderFlag"](flag))

        def clear_flag(self, flag):
            self._.flags.discard(flag)

        def get_flag(self, flag):
            return flag in self._.flags

        def add_optimization_profile(self, profile):
            if not profile:
                return -1
            self._.profiles.append(profile)
            return len(self._.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            data, entries = bytes(serialized_timing_cache), set()
            if data:
                head, _, rest = data.removeprefix(_CACHE).partition(b"\n")
                if not data.startswith(_CACHE) or head != json.dumps([world.version, world.gpu]).encode():
                    return None
                entries = set(filter(None, rest.decode().split("\n")))
            cache = ITimingCache()
            cache._ = types.SimpleNamespace(entries=entries)
            return cache

        def set_timing_cache(self, cache, ignore_mismatch):
            self._.cache = cache
            return True

        def get_timing_cache(self):
            return self._.cache

    class Builder(Sealed):
        def __init__(self, logger):
            if not isinstance(logger, ILogger):
                raise TypeError("Builder: incompatible constructor arguments")
            world.start(logger, ILogger.ERROR)
            self._ = types.SimpleNamespace(logger=logger)

        def create_network(self, flags=0):
            network = network_kind()
            network._ = types.SimpleNamespace(flags=flags, inputs=[], outputs=[], layers=[], raw=None)
            return network

        def create_optimization_profile(self):
            profile = IOptimizationProfile()
            profile._ = types.SimpleNamespace(shapes={})
            return profile

        def create_builder_config(self):
            config = IBuilderConfig()
            config._ = types.SimpleNamespace(
                level=3, verbosity=enums["ProfilingVerbosity"].LAYER_NAMES_ONLY, dla=-1, monitor=None, calibrator=None,
                hardware=enums["HardwareCompatibilityLevel"].NONE, device=enums["DeviceType"].GPU, pools={},
                flags={enums["BuilderFlag"].TF32}, profiles=[], cache=None,
            )  # fmt: skip
            return config

        def build_serialized_network(self, network, config):
            inner, wants = network._, config._
            asked = {
                "strongly_typed": network.get_flag(enums["NetworkDefinitionCreationFlag"].STRONGLY_TYPED),
                "flags": sorted(flag.name for flag in wants.flags),
                "hardware": wants.hardware.name,
                "level": wants.level,
                "verbosity": wants.verbosity.name,
                "workspace": config.get_memory_pool_limit(enums["MemoryPoolType"].WORKSPACE),
                "profiles": [profile._.shapes for profile in wants.profiles],
            }
            world.built.append(asked)
            complaint = self._complaint(inner, wants, asked)
            if complaint is None and not self._work(inner, wants):
                complaint = "Error Code 5: Internal Error (Build was cancelled by the progress monitor.)"
            if complaint is not None:
                self._.logger.log(ILogger.ERROR, f"[builder.cpp] {complaint}")
                return None
            tensors = [("INPUT", tensor) for tensor in inner.inputs] + [("OUTPUT", tensor) for tensor in inner.outputs]
            content = asked | {
                "version": world.version, "gpu": world.gpu, "capability": list(world.capability),
                "layers": [layer.name for layer in inner.layers],
                "tensors": [[mode, t.name, t.dtype.name, list(t.shape)] for mode, t in tensors],
            }  # fmt: skip
            return host_memory(plan_bytes(content, inner.raw))

        def _complaint(self, inner, wants, asked):
            if inner.raw is None:
                return "Error Code 4: API Usage Error (the network has no layers.)"
            forbidden = {"FP16", "BF16", "INT8", "FP8"} & set(asked["flags"])
            if asked["strongly_typed"] and forbidden:
                return f"Error Code 3: API Usage Error ({forbidden} cannot be set on a strongly typed network.)"
            for tensor in inner.inputs:
                shapes = [profile._.shapes.get(tensor.name) for profile in wants.profiles]
                if -1 in tensor.shape and (not shapes or None in shapes):
                    return f"Error Code 4: Internal Error (Network has dynamic input {tensor.name}, but no profile.)"
                for low, _, high in shapes:
                    fits = all(
                        have in (-1, a) and (have == -1 or a == b)
                        for have, a, b in zip(tensor.shape, low, high, strict=True)
                    )
                    if not fits:
                        return f"Error Code 4: Internal Error (the profile of {tensor.name} does not fit its shape.)"
            if len(inner.raw) > world.memory:
                return "Error Code 2: OutOfMemory (Requested size was more than the card has: out of memory.)"
            return None

        def _work(self, inner, wants):
            """Tactics are timed and progress is told from a thread of the library's own; false if cancelled."""
            entries = wants.cache._.entries if wants.cache is not None else set()
            cancelled = threading.Event()

            def told(call, *arguments):
                if wants.monitor is None:
                    return True
                try:
                    return getattr(wants.monitor, call)(*arguments)
                except Exception:
                    cancelled.set()
                    return False

            def run():
                told("phase_start", "Building Engine", None, world.phases)
                for phase in range(world.phases):
                    name = f"Tactic selection {phase}"
                    mine = inner.layers[phase :: world.phases]
                    told("phase_start", name, "Building Engine", len(mine))
                    for step, layer in enumerate(mine):
                        if cancelled.is_set():
                            break
                        if callable(world.on_step):
                            world.on_step()
                        if layer.name not in entries:
                            world.timed.append(layer.name)
                            entries.add(layer.name)
                        if told("step_complete", name, step) is False:
                            cancelled.set()
                    told("phase_finish", name)
                    if cancelled.is_set() or told("step_complete", "Building Engine", phase) is False:
                        cancelled.set()
                        break
                told("phase_finish", "Building Engine")

            worker = threading.Thread(target=run)
            worker.start()
            worker.join()
            return not cancelled.is_set()

    return {
        "IOptimizationProfile": IOptimizationProfile,
        "ITimingCache": ITimingCache,
        "IProgressMonitor": IProgressMonitor,
        "IBuilderConfig": IBuilderConfig,
        "Builder": Builder,
    }
