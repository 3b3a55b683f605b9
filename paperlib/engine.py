"""How a training step runs on its device: compiled or eager, in which precision, bit by bit repeatable or not.

None of this belongs to what a run is, so none of it is a key of ``RunConfig``. The environment of a record says what
was used.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paperlib.losses import SPECS, BoundLoss

Loss = Callable[..., Tensor]
#: Of ``torch.compile``.
BACKEND = "inductor"
#: Up to this batch size a step on CUDA is shorter than the launches of its kernels, so it is recorded as a CUDA graph.
GRAPH_BATCH_SIZE = 256
#: Graphs of one process: one for each loss and image size. Torch's own limit, 8, is soon met by a grid.
GRAPHS_KEPT = 64
#: Whether torch has fast kernels for bfloat16 on this CPU: from AVX-512 on.
BF16_INSTRUCTIONS = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
WORKSPACE, WORKSPACE_SIZES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


@dataclass(frozen=True)
class Engine:
    """What was decided for one run."""

    compiled: bool = False  #: forward pass and loss as one graph, by ``torch.compile``
    cuda_graphs: bool = False  #: and that replayed as a CUDA graph
    deterministic: bool = False  #: CUDA only: the CPU repeats itself anyway

    @classmethod
    def choose(cls, device: torch.device, batch_size: int, *, compile: bool | None = None,
               deterministic: bool = False) -> "Engine":
        """The engine for a device.

        Args:
            device: to train on.
            batch_size: of training.
            compile: None: on CUDA. On a CPU compiling convolutional networks gains nothing and takes a minute.
            deterministic: the same bits in every run on this GPU with these versions, at some cost in speed.
        """
        compiled = device.type == "cuda" if compile is None else compile
        return cls(compiled, compiled and device.type == "cuda" and batch_size <= GRAPH_BATCH_SIZE, deterministic)

    def describe(self, device: torch.device, bf16: bool) -> dict[str, bool]:
        """For the environment of a record."""
        return asdict(self) | {"widened": widens(device, bf16)}

    @contextmanager
    def settings(self, device: torch.device) -> Iterator[None]:
        """Torch's switches for the run, put back afterwards.

        Raises:
            ValueError: ``deterministic``, but CUDA has started without the workspace that cuBLAS then needs.
        """
        cudnn = torch.backends.cudnn
        before = (cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled(),
                  torch.is_deterministic_algorithms_warn_only_enabled())
        if self.deterministic and device.type == "cuda":
            _fix_workspace()
        try:
            with self._compiler_settings():
                if self.deterministic:
                    cudnn.benchmark, cudnn.deterministic = False, True
                    torch.use_deterministic_algorithms(True)
                elif device.type == "cuda" and not before[2]:
                    cudnn.benchmark = True  # tries which algorithm is fastest; that may end differently every time
                yield
        finally:
            cudnn.benchmark, cudnn.deterministic = before[:2]
            torch.use_deterministic_algorithms(before[2], warn_only=before[3])

    @contextmanager
    def _compiler_settings(self) -> Iterator[None]:
        if not self.compiled:  # importing the compiler takes seconds
            yield
            return
        import torch._dynamo
        import torch._inductor.config as inductor

        limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
        # Where torch has it: no choice between kernels by timing them. Older versions keep choices in their cache.
        no_timing = {"deterministic": True} if self.deterministic and hasattr(inductor, "deterministic") else {}
        with torch._dynamo.config.patch({limit: GRAPHS_KEPT}), inductor.patch(no_timing):
            yield

    def step(self, model: nn.Module, loss: Loss, bf16: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        """``step(inputs, labels, changes, check)``: logits (B, C) and 0-d loss; ``check`` sees the logits first.

        ``changes`` are arguments of the loss by name, tensors. In a compiled step nothing can look at the logits
        before the loss is there, so ``check`` comes last.
        """
        if not self.compiled:
            return partial(forward, model, loss, bf16)
        # Without the wrapper, whose checks of names say nothing to a compiler.
        plain = partial(SPECS[loss.name].function, **loss.options) if isinstance(loss, BoundLoss) else loss
        graph = _compiled(self.cuda_graphs, BACKEND)

        def step(inputs: Tensor, labels: Tensor, changes: dict[str, Tensor],
                 check: Callable[[Tensor], None]) -> tuple[Tensor, Tensor]:
            if self.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            logits, value = graph(model, plain, bf16, inputs, labels, changes)
            check(logits)
            return logits, value

        return step


def forward(model: nn.Module, loss: Loss, bf16: bool, inputs: Tensor, labels: Tensor, changes: dict[str, Tensor],
            check: Callable[[Tensor], None] | None = None) -> tuple[Tensor, Tensor]:
    """Logits and loss of one batch. A function of the module, so that runs of one process share its graphs."""
    with autocast(inputs.device, bf16), widened(inputs.device, bf16):
        logits = model(inputs)
    if check:
        check(logits)
    return logits, loss(logits, labels, **changes)


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """bfloat16 where it is asked for; to be used with :func:`widened`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def widens(device: torch.device, bf16: bool) -> bool:
    """Whether products of bfloat16 numbers are computed in float32, because the CPU has no instructions for them."""
    return bf16 and device.type == "cpu" and not BF16_INSTRUCTIONS


def widened(device: torch.device, bf16: bool) -> AbstractContextManager[Any]:
    """:class:`Widened` where it is needed."""
    return Widened() if widens(device, bf16) else nullcontext()


class Widened(TorchFunctionMode):
    """Under autocast, convolutions and linear maps in float32 between rounding to bfloat16 what goes in and comes out.

    Instructions for bfloat16 sum in float32 too, so results differ from theirs by the order of sums alone. Torch's
    kernels for a CPU without them take fifteen times as long.
    """

    PRODUCTS = (torch.conv2d, nn.functional.linear)

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        """``function`` of the arguments; of products in float32, unless a layer has switched autocast off."""
        kwargs = kwargs or {}
        if function not in self.PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            wide = function(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
            return wide.to(torch.bfloat16)


def _wide(value: Any) -> Any:
    """What a product takes, rounded to bfloat16 and in float32."""
    return value.to(torch.bfloat16).float() if isinstance(value, Tensor) else value


@lru_cache
def _compiled(cuda_graphs: bool, backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    # fullgraph: a step that cannot be captured as a whole is an error, and never runs eagerly under another name.
    # The optimiser stays outside: fused, it is one kernel that takes the learning rate as a number, so a change of
    # rate recompiles nothing.
    options: dict[str, Any] = {"mode": "reduce-overhead"} if cuda_graphs else {}
    return torch.compile(forward, backend=backend, fullgraph=True, dynamic=False, **options)


def _fix_workspace() -> None:
    """Give cuBLAS the fixed workspace without which it does not repeat itself; it is read once, when CUDA starts."""
    found = os.environ.get(WORKSPACE)
    if found in WORKSPACE_SIZES:
        return
    if found or torch.cuda.is_initialized():
        raise ValueError(f"deterministic=True with {WORKSPACE}={found!r}"
                         f"{' and CUDA already in use' if torch.cuda.is_initialized() else ''}: expected the variable "
                         f"to be {' or '.join(WORKSPACE_SIZES)} when the process starts")
    os.environ[WORKSPACE] = WORKSPACE_SIZES[0]
