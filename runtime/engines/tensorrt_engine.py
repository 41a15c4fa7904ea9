"""The engine on TensorRT: compiled plans of a bundle, run between buffers of a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from immunecam.errors import InputError, UsageError
from immunecam.kernels.cuda import open_device
from immunecam.runtime.engines.plans import PlanMachine, choose_plans
from immunecam.runtime.engines.tensorrt_library import TensorRTLogger, import_tensorrt, open_runtime, tensorrt_logger
from immunecam.runtime.plan_record import LIVENESS, MASK, MASKED_RECOGNIZER, PLAN_ROLES, PlanRecord

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["TensorRTEngine"]

_FACE = (112, 112)

Shapes = dict[str, tuple[int, ...]]


def _tensors(bundle: Bundle, role: str) -> tuple[Shapes, Shapes]:
    """Inputs and outputs of a plan, of one face."""
    if role == LIVENESS:
        record = bundle.manifest.liveness
        assert record is not None
        return {"faces": (3, record.side, record.side)}, {"scores": ()}
    if role in (MASK, MASKED_RECOGNIZER):
        masking = bundle.manifest.masking
        assert masking is not None
        channels = (masking.channels, masking.positions, masking.positions)
        if role == MASK:
            return {"faces": _FACE}, {"channels": channels}
        return {"channels": channels}, {"embedding": (masking.size,)}
    if role == "restorer":
        return {"faces": _FACE, "projected": _FACE}, {"restored": _FACE}
    return {"faces": _FACE}, {"probabilities": (bundle.k,)}


class TensorRTEngine:
    """Runs the plans of a bundle's ``analyzer`` and ``restorer``, or of an optional part's networks.

    Made by :meth:`from_bundle`. For one thread at a time, on which the device is current; it may be another at every
    call, as TensorRT's execution contexts belong to none. They live as long as the engine, for a CUDA graph that holds
    one of them may be replayed by any thread. Whoever wants threads to run side by side gives each one of its own.

    A plan is native code, so it is run only from a bundle that was checked, and from the very bytes that were checked.
    """

    def __init__(self, bundle: Bundle, trt: Any, records: dict[str, PlanRecord]) -> None:
        """Open the plans; use :meth:`from_bundle`, which chooses them."""
        self._bundle, self._trt, self._records = bundle, trt, records
        self._logger = tensorrt_logger(trt)
        # One for each number of faces: a CUDA graph holds the state of the context that it was captured from, which
        # must not get other shapes after that.
        self._contexts: dict[tuple[str, int], _Context] = {}
        self._closed = False
        self._runtime = open_runtime(trt)
        self._plans = {role: _Plan.open(trt, self._runtime, bundle, record) for role, record in records.items()}

    @staticmethod
    def from_bundle(
        bundle: Bundle, *, device: Any = None, exact: bool = False, roles: Sequence[str] = PLAN_ROLES
    ) -> TensorRTEngine:
        """Engine for a bundle.

        Parameters
        ----------
        bundle : Bundle
            A loaded, hence verified, bundle.
        device : cuda.core.Device, optional
            From :func:`immunecam.kernels.cuda.open_device`; None opens the first.
        exact : bool
            Take only plans that were built on a machine just like this, not merely compatible ones.
        roles : sequence of str
            Whose plans to open; ``("liveness",)`` is the liveness network alone.

        Raises
        ------
        BackendMissingError
            If TensorRT or the driver is missing, or too old.
        InputError
            If the bundle has no plan for this machine, or a plan is damaged, has other tensors than the manifest says,
            or does not find the device memory it needs.
        """
        trt = import_tensorrt()
        device = open_device() if device is None else device
        records = dict(choose_plans(bundle, PlanMachine.here(trt, device), exact=exact, roles=roles))
        return TensorRTEngine(bundle, trt, records)

    @property
    def provider(self) -> str:
        """The backend in use: "tensorrt"."""
        return "tensorrt"

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self._bundle.k

    @property
    def min_batch(self) -> int:
        """Faces of a call at least."""
        return max(plan.batch[0] for plan in self._plans.values())

    @property
    def max_batch(self) -> int:
        """Faces of a call at most."""
        return min(plan.batch[1] for plan in self._plans.values())

    @property
    def precision(self) -> str:
        """Precision of the analyzer's plan: "fp32", "fp16" or "int8"."""
        return self._records["analyzer"].key.precision

    @property
    def capturable(self) -> bool:
        """True: launches may stand in a CUDA graph, after one call with the same n."""
        return True

    def analyze_on(self, n: int, *, faces: int, probabilities: int, stream: Any) -> None:
        """Start the analysis of n faces.

        Parameters
        ----------
        n : int
            From the smallest to the largest batch of the plans.
        faces : int
            Address of float32 (n, 112, 112) in [-1, 1] on the card.
        probabilities : int
            Address of room for float32 (n, K).
        stream : cuda.core.Stream
            Not the default one.

        Raises
        ------
        UsageError
            If n is outside of the plan's batches, or the engine was closed.
        InputError
            If TensorRT cannot run the plan, as for want of device memory; the engine stays usable.
        """
        self._run("analyzer", n, {"faces": faces, "probabilities": probabilities}, stream)

    def restore_on(self, n: int, *, faces: int, projected: int, restored: int, stream: Any) -> None:
        """Start the restoration of n faces: float32 (n, 112, 112) in all three; else as :meth:`analyze_on`."""
        self._run("restorer", n, {"faces": faces, "projected": projected, "restored": restored}, stream)

    def run_on(self, role: str, n: int, addresses: Mapping[str, int], *, stream: Any) -> None:
        """Start any plan on n faces: addresses of its inputs and outputs by name; else as :meth:`analyze_on`."""
        self._run(role, n, addresses, stream)

    def tensors(self, role: str) -> tuple[Shapes, Shapes]:
        """Inputs and outputs of a plan, float32: shapes of one face by name."""
        return _tensors(self._bundle, role)

    def inspect(self, role: str) -> dict[str, Any]:
        """What TensorRT tells of the plan of a graph: its layers, and its inputs and outputs.

        The entries are TensorRT's own; names of entries changed in version 11.
        """
        inspector = self._plans[role].engine.create_engine_inspector()
        told: dict[str, Any] = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        return told

    def close(self) -> None:
        """Give contexts, plans and TensorRT's runtime back; the streams of all calls must be done."""
        self._closed = True
        self._contexts.clear()
        self._plans.clear()
        self._runtime = None

    def _run(self, role: str, n: int, addresses: Mapping[str, int], stream: Any) -> None:
        handle = int(stream.handle)
        if handle == 0:
            raise UsageError(
                "The stream is the default one, but TensorRT wants one of its own: make it by create_stream."
            )
        self._context(role, n).run(n, addresses, handle)

    def _context(self, role: str, n: int) -> _Context:
        if (role, n) not in self._contexts:
            if self._closed:
                raise UsageError("This TensorRT engine was closed, but it was asked to run: make another.")
            if role not in self._plans:
                raise UsageError(f"The bundle {self._bundle.path} has no {role}, but it was asked to run.")
            self._contexts[role, n] = self._plans[role].context(n, self._logger)
        return self._contexts[role, n]


class _Plan:
    """A deserialised plan whose tensors were checked."""

    def __init__(self, engine: Any, name: str, inputs: Shapes, batch: tuple[int, int]) -> None:
        self.engine, self.name, self.inputs, self.batch = engine, name, inputs, batch

    @classmethod
    def open(cls, trt: Any, runtime: Any, bundle: Bundle, record: PlanRecord) -> _Plan:
        logger, name = tensorrt_logger(trt), f"The plan {bundle.path / record.file}"
        again = f"run 'immunecam export {bundle.path} --target tensorrt' here"
        if record.key.flag("version_compatible") is not None:
            runtime.engine_host_code_allowed = True  # such a plan brings a runtime along; the bundle was checked
        logger.forget()
        engine = runtime.deserialize_cuda_engine(bundle.files[record.file])
        if engine is None:
            if logger.out_of_memory:
                raise _no_memory(name, logger)
            raise InputError(f"{name} cannot be opened by TensorRT {trt.__version__} ({logger.reason}): {again}.")
        inputs, outputs = _tensors(bundle, record.role)
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if found != {*inputs, *outputs}:
            raise InputError(f"{name} has the tensors {sorted(found)}, but must have {[*inputs, *outputs]}: {again}.")
        for tensor, wanted in {**inputs, **outputs}.items():
            mode = trt.TensorIOMode.INPUT if tensor in inputs else trt.TensorIOMode.OUTPUT
            shape, dtype = tuple(engine.get_tensor_shape(tensor)), engine.get_tensor_dtype(tensor)
            fits = shape[1:] == wanted and dtype == trt.DataType.FLOAT
            if engine.get_tensor_mode(tensor) != mode or not fits or len(shape) != 1 + len(wanted):
                raise InputError(
                    f"{name} has the tensor {tensor!r} as {engine.get_tensor_mode(tensor).name} {dtype.name} "
                    f"{list(shape)}, but it must be {mode.name} FLOAT {['N', *wanted]}: {again}."
                )
        ranges = [engine.get_tensor_profile_shape(tensor, 0) for tensor in inputs]
        return cls(engine, name, inputs, (max(r[0][0] for r in ranges), min(r[2][0] for r in ranges)))

    def context(self, n: int, logger: TensorRTLogger) -> _Context:
        if not self.batch[0] <= n <= self.batch[1]:
            raise UsageError(
                f"{self.name} takes {self.batch[0]} to {self.batch[1]} faces at once, but there are {n}: split them, "
                "or build a plan for more (--batch)."
            )
        logger.forget()
        context = self.engine.create_execution_context()
        if context is None:
            if logger.out_of_memory:
                raise _no_memory(self.name, logger)
            raise InputError(f"{self.name} cannot be run ({logger.reason}).")
        return _Context(self, context, logger)


class _Context:
    """An execution context and what was set on it last."""

    def __init__(self, plan: _Plan, context: Any, logger: TensorRTLogger) -> None:
        self._plan, self._context, self._logger = plan, context, logger
        self._n = 0
        self._addresses: dict[str, int] = {}

    def run(self, n: int, addresses: Mapping[str, int], stream: int) -> None:
        plan = self._plan
        self._logger.forget()
        if n != self._n:
            self._n = 0  # until all of it is set: a failure in between must not be taken for done
            for tensor, face in plan.inputs.items():
                if not self._context.set_input_shape(tensor, (n, *face)):
                    raise self._failed(f"does not take {n} faces")
            missing = self._context.infer_shapes()
            if missing:
                raise self._failed(f"lacks the shape of {', '.join(missing)}")
            self._n = n
        for tensor, address in addresses.items():
            if self._addresses.get(tensor) != address:
                if not self._context.set_tensor_address(tensor, address):
                    raise self._failed(f"does not take the address of {tensor}")
                self._addresses[tensor] = address
        if not self._context.execute_async_v3(stream):
            raise self._failed(f"does not run with {n} faces")

    def _failed(self, what: str) -> InputError:
        if self._logger.out_of_memory:
            return _no_memory(self._plan.name, self._logger)
        return InputError(f"{self._plan.name} {what} ({self._logger.reason}).")


def _no_memory(name: str, logger: TensorRTLogger) -> InputError:
    return InputError(
        f"{name} does not find the device memory it needs ({logger.reason}): close another user of the card, or build "
        "it for fewer faces (--batch)."
    )
