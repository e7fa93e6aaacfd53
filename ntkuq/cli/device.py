"""Where and how precisely to compute, set before JAX starts."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ntkuq.cli.errors import UsageError


@runtime_checkable
class Placed(Protocol):
    """Flags that say where and how precisely to compute."""

    @property
    def device(self) -> str:
        """auto, cpu or gpu."""
        ...

    @property
    def x64(self) -> bool:
        """Networks in float64?"""
        ...


def choose_device(flags: Placed) -> None:
    """Obey `--device` and `--x64`.

    Raises:
        UsageError: where there is no device of that kind.
    """
    import jax

    jax.config.update("jax_enable_x64", flags.x64)
    if flags.device == "auto":
        return
    if flags.device == "cpu":
        # before the first computation, so that no GPU memory is taken
        jax.config.update("jax_platforms", "cpu")
    try:
        found = jax.devices(flags.device)
    except RuntimeError as error:
        raise UsageError(
            f"--device: expected a {flags.device} that JAX can use, got none "
            f"({_first_line(error)}); there is {jax.default_backend()}. For an NVIDIA "
            "GPU install ntkuq[cuda12] or ntkuq[cuda13], and see that JAX_PLATFORMS "
            "does not rule it out"
        ) from error
    jax.config.update("jax_default_device", found[0])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
