import pytest

pytest.register_assert_rewrite("tests.devices.behaviours")
