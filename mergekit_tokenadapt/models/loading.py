"""Load a model for inference, with defaults for device and dtype."""

from __future__ import annotations

from typing import Any

import torch

from mergekit_tokenadapt.errors import TokenAdaptError, first_line
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.terminal.progress import without_loading_bar

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | None) -> torch.device:
    """Return the named device. Without a name, return CUDA if available, else Apple's MPS, else the CPU.

    Raises:
        TokenAdaptError: the device does not exist or cannot be used.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)  # a device may have a valid name and still be absent
    except (RuntimeError, AssertionError) as error:
        raise TokenAdaptError(f"--device {device!r} cannot be used here: {first_line(error)}") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the given dtype. Without one, return float32 for a CPU, where bfloat16 is slow, and bfloat16 elsewhere."""
    if dtype is not None:
        return DTYPES[dtype] if isinstance(dtype, str) else dtype
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for reading and fitting: bfloat16, or float32 on CPUs without instructions for bfloat16.

    On CPUs with these instructions, reading takes 0.6 times as long as in float32 (SmolLM2-135M). The loss of the base
    model rises by 0.0003 bits per byte.
    """
    # Older versions of torch have no such function. Their CPUs count as slow.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    is_slow = device.type == "cpu" and not capabilities.get("avx512_bf16", False)
    return torch.float32 if is_slow else torch.bfloat16


def _reads_both_ways(config: Any) -> bool:
    """Whether a model of a causal class attends to later tokens, as BERT and RoBERTa do unless the config says else."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    return config.model_type in ENCODERS and getattr(config, "is_decoder", None) is False


def load_model(folder: ModelFolder, *, device: str | None = None, dtype: str | torch.dtype | None = None) -> Any:
    """Load a causal language model in evaluation mode.

    Args:
        folder: the model.
        device: name of the device; see `choose_device`.
        dtype: one of `DTYPES` or a torch dtype; see `choose_dtype`.

    Raises:
        TokenAdaptError: transformers cannot load the model, it is an encoder, or the folder lacks tensors that the
            model needs.
    """
    from transformers import AutoModelForCausalLM

    if folder.is_ensemble:
        import mergekit_tokenadapt.models.lockstep  # noqa: F401 - the import registers the model type

    place = choose_device(device)
    try:
        with without_loading_bar():
            model, report = AutoModelForCausalLM.from_pretrained(
                str(folder.folder),
                dtype=choose_dtype(dtype, place),
                trust_remote_code=folder.trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError, ImportError) as error:
        reason = first_line(error)[:300]
        raise TokenAdaptError(f"{folder.name} cannot be loaded as a causal language model: {reason}") from error
    if _reads_both_ways(model.config):
        raise TokenAdaptError(
            f"{folder.name} is an encoder ({model.config.model_type} with is_decoder false): it also reads what comes "
            "after a token, so that it cannot be used as a causal language model"
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise TokenAdaptError(
            f"{folder.name}: {len(missing)} tensors are not in the folder, {missing[0]} for one: "
            "transformers would fill them with random numbers"
        )
    return model.to(place).eval()
