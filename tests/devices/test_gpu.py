"""The behaviours on a real GPU: `pytest -m gpu`."""

from collections.abc import Iterator

import pytest
import torch

from tests.devices.behaviours import Behaviours
from tests.devices.place import Place

DEVICE = torch.device("cuda", 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnGpu(Behaviours):
    @pytest.fixture
    def place(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
        # Equal bits need kernels that give them; tolerances are those of float32, which TF32 does not keep.
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        # Some backward passes of the denoisers have no deterministic kernel; no test needs their bits.
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield Place(DEVICE, lambda: torch.Generator(DEVICE))
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
