"""The behaviours on a pretend GPU, which every machine has."""

from collections.abc import Iterator

import pytest

from tests.devices.behaviours import Behaviours
from tests.devices.place import Place
from tests.devices.pretend import Generator, pretend_device


class TestOnPretend(Behaviours):
    @pytest.fixture
    def place(self) -> Iterator[Place]:
        with pretend_device() as pretend:
            yield Place(pretend.device, Generator, pretend.waits)
