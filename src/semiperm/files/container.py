"""The safetensors container: strict reading and reproducible writing.

See the [format](https://github.com/huggingface/safetensors#format).
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from semiperm.errors import MembraneFileError, clipped
from semiperm.files.strict import from_json
from semiperm.paths import opened, whole

SUFFIX = ".safetensors"
MAX_HEADER_BYTES = 16 * 1024**2
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
# numbers in a tensor that is checked together with others
SMALL = 2**16


def check_name(path: Path) -> Path:
    """Return the path of a file to be written.

    Raises:
        MembraneFileError: its name does not end in .safetensors.
    """
    if path.suffix != SUFFIX:
        raise MembraneFileError(f"{path}: the name of an erasure's file must end in {SUFFIX}.")
    return path


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors and metadata whole or not at all, and return the path; equal contents give equal bytes.

    Raises:
        MembraneFileError: the name does not end in .safetensors, or a tensor could not be read again.
    """
    data = packed(check_name(path), tensors, metadata)
    with whole(path) as draft:
        draft.write_bytes(data)
    return path


def packed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the contents of a file; `path` is its name in messages.

    Raises:
        MembraneFileError: a tensor could not be read again.
    """
    # clone() because safetensors refuses tensors that share memory
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    check_numbers(path, stored)
    return _sorted_header(safetensors.torch.save(stored, dict(metadata)))


def read(path: Path, check_size: Callable[[int, Mapping[str, str]], None]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    Args:
        check_size: called with the file's size in bytes and its metadata before the tensors are read; raises if the
            file is too large.

    Raises:
        OSError: there is no such file, or it is a device, a pipe or a folder.
        MembraneFileError: it is not a sound safetensors file.
    """
    if path.suffix.lower() in PICKLES:
        raise MembraneFileError(
            f"{path}: reading a {path.suffix} file can run code, so it is not opened; get the same adapter as {SUFFIX}."
        )
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise MembraneFileError(
                f"{path}: this is not a safetensors file: its header would have {length:,} bytes, and at most "
                f"{MAX_HEADER_BYTES:,} are allowed."
            )
        if size < 8 or length > size - 8:
            raise MembraneFileError(f"{path}: the file is truncated or is not a safetensors file; fetch it again.")
        metadata = _metadata(path, file.read(length))
        check_size(size, metadata)
        file.seek(0)
        # Read into memory and check there: a memory-mapped file could change after the check.
        data = file.read(size)
    try:
        return safetensors.torch.load(data), metadata
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _unsound(path, error) from None


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors have a type that files may hold and only finite numbers.

    Raises:
        MembraneFileError: one has not; the message names it.
    """
    # One check for hundreds of small tensors; one by one only to name the wrong one.
    right = all(tensor.dtype in DTYPES for tensor in tensors.values())
    small = [tensor.flatten() for tensor in tensors.values() if tensor.numel() < SMALL]
    large = [tensor for tensor in tensors.values() if tensor.numel() >= SMALL]
    if right and all(bool(tensor.isfinite().all()) for tensor in [*large, *([torch.cat(small)] if small else [])]):
        return
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise MembraneFileError(
                f"{path}: the tensor {clipped(name)} has the type {tensor.dtype}; the types allowed are float16, "
                "bfloat16 and float32."
            )
        if not tensor.isfinite().all():
            raise MembraneFileError(f"{path}: the tensor {clipped(name)} has numbers that are not finite.")


def _metadata(path: Path, header: bytes) -> dict[str, str]:
    try:
        # Which of two tensors or cards of one name counts differs from reader to reader.
        metadata = from_json(header.decode("utf-8")).get("__metadata__") or {}
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("the metadata are not strings")
    except (ValueError, AttributeError) as error:
        raise _unsound(path, error) from None
    return metadata


def _sorted_header(data: bytes) -> bytes:
    # safetensors writes the metadata in an order that changes from run to run.
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(data)[8 + length :]])


def _unsound(path: Path, error: Exception) -> MembraneFileError:
    text = clipped(" ".join(str(error).split()), 160)
    return MembraneFileError(
        f"{path}: this is not a sound safetensors file ({text}); it is truncated, damaged or malicious."
    )
