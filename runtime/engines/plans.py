"""Which compiled plans of a bundle this machine can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from immunecam.errors import BackendMissingError, InputError
from immunecam.kernels.cuda.card import INSTALL, one_line
from immunecam.runtime.plan_record import PLAN_ROLES, PlanKey, PlanRecord

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY", "VERSION_COMPATIBLE", "PlanMachine", "choose_plans"]

AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = "ampere_plus", "same_compute_capability"
"""Values of the flag ``hardware_compatible`` of a plan that runs on other cards too."""

VERSION_COMPATIBLE = "version_compatible"
"""Flag of a plan that runs with later TensorRT of the same major version."""


@dataclass(frozen=True)
class PlanMachine:
    """What a machine must have in common with the one a plan was built on.

    Attributes
    ----------
    tensorrt, gpu, compute_capability, driver : str
        As in :class:`immunecam.runtime.plan_record.PlanKey`.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str

    @classmethod
    def here(cls, trt: Any, device: Any) -> PlanMachine:
        """This machine, from the module ``tensorrt`` and a ``cuda.core.Device``.

        Raises
        ------
        BackendMissingError
            If the driver does not tell its version.
        """
        capability = device.compute_capability
        return cls(str(trt.__version__), str(device.name), f"{capability[0]}.{capability[1]}", _driver())

    def __str__(self) -> str:
        return (
            f"TensorRT {self.tensorrt}, {self.gpu} (compute capability {self.compute_capability}), a driver for "
            f"CUDA {self.driver}"
        )

    def built(self, key: PlanKey) -> bool:
        """Whether a plan was built on a machine just like this one."""
        return self == PlanMachine(key.tensorrt, key.gpu, key.compute_capability, key.driver)

    def runs(self, key: PlanKey) -> bool:
        """Whether a plan may run here: built here, or built to be compatible with what is here."""
        if self.built(key):
            return True
        hardware, version = key.flag("hardware_compatible"), key.flag(VERSION_COMPATIBLE)
        if hardware is None and version is None:
            return False
        return self._card(key, hardware) and self._version(key, version)

    def _card(self, key: PlanKey, hardware: str | None) -> bool:
        if hardware == AMPERE_PLUS:
            return _numbers(self.compute_capability) >= (8, 0)
        if hardware == SAME_COMPUTE_CAPABILITY:
            return self.compute_capability == key.compute_capability
        return (self.gpu, self.compute_capability) == (key.gpu, key.compute_capability)

    def _version(self, key: PlanKey, version: str | None) -> bool:
        here, there = _numbers(self.tensorrt), _numbers(key.tensorrt)
        return here == there if version is None else here[:1] == there[:1] and here >= there


def choose_plans(
    bundle: Bundle, machine: PlanMachine, *, exact: bool = False, roles: Sequence[str] = PLAN_ROLES
) -> Mapping[str, PlanRecord]:
    """The plan of each graph that this machine is to run.

    Of several, one built on a machine just like this goes before a compatible one, and the one stored last before the
    others.

    Parameters
    ----------
    bundle : Bundle
    machine : PlanMachine
    exact : bool
        Take none that was built elsewhere, even if it was built to be compatible.
    roles : sequence of str
        Whose plans; what the bundle has no graph for is left out.

    Returns
    -------
    Mapping of PlanRecord
        By role; "analyzer", and "restorer" where the bundle has one, unless others are asked for.

    Raises
    ------
    InputError
        If a graph has no such plan.
    """
    chosen: dict[str, PlanRecord] = {}
    for role in roles:
        sha256 = bundle.manifest.compiled_sha256(role)
        if sha256 is None:
            continue
        fits = machine.built if exact else machine.runs
        fitting = [plan for plan in bundle.manifest.plans_of(role) if plan.key.onnx_sha256 == sha256 and fits(plan.key)]
        if not fitting:
            raise _none(bundle, role, machine)
        chosen[role] = max(enumerate(fitting), key=lambda entry: (machine.built(entry[1].key), entry[0]))[1]
    return chosen


def _none(bundle: Bundle, role: str, machine: PlanMachine) -> InputError:
    sha256 = bundle.manifest.compiled_sha256(role)
    keys = [plan.key for plan in bundle.manifest.plans_of(role)]
    theirs = [
        f"one in {key.precision} for TensorRT {key.tensorrt}, {key.gpu} ({key.compute_capability}), CUDA {key.driver}"
        + ("" if key.onnx_sha256 == sha256 else ", of another graph")
        for key in keys[:4]
    ]
    has = "none" if not keys else "; ".join(theirs) + (f"; and {len(keys) - 4} more" if len(keys) > 4 else "")
    return InputError(
        f"The bundle {bundle.path} has no TensorRT plan of its {role} for this machine ({machine}), but {has}: "
        f"run 'immunecam export {bundle.path} --target tensorrt' here."
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version; what is no number ends it ("10.3.0rc1" is (10, 3))."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _driver() -> str:
    """Newest CUDA version that the installed driver knows, "12.6"."""
    try:
        from cuda.bindings import driver

        error, version = driver.cuDriverGetVersion()
    except Exception as error_:  # a missing package, or a missing driver library
        raise BackendMissingError(
            f"The NVIDIA driver does not tell its version ({one_line(error_)}): install a driver, and its bindings by "
            f"{INSTALL}."
        ) from None
    if int(error) != 0:
        raise BackendMissingError(f"The NVIDIA driver does not tell its version ({error}): check it with nvidia-smi.")
    return f"{version // 1000}.{version % 1000 // 10}"
